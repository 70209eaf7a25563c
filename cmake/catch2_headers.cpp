// Does nothing: the target of this file carries the precompiled header of all tests (cmake/QdiffTargets.cmake).
int main() { return 0; }
