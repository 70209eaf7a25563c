#!/usr/bin/env bash
# Makes sure that everything needed to build and test qdiff is here, and installs only what is missing:
# tools and header libraries by apt (Debian 12, Ubuntu 24.04; as root or with sudo), LibTorch from PyPI into a cache
# folder.
#
#   scripts/setup.sh [--checks | --coverage]
#     --checks: also clang-format, clang-tidy, shellcheck and clang, for .ci/run
#     --coverage: also gcovr, for scripts/coverage.sh
#   source scripts/setup.sh          for a script: defines `setup`, which does this and exports QDIFF_TORCH_DIR, QDIFF_PYTHON
#
# Environment
#   QDIFF_TORCH_DIR    …/site-packages/torch of PyTorch 2.11: used as it is, nothing is downloaded
#   QDIFF_CACHE        where LibTorch is kept; default ${XDG_CACHE_HOME:-~/.cache}/qdiff, shared by all clones
#   QDIFF_NO_INSTALL   not empty: install nothing, say what is missing and stop
#   CMAKE_PREFIX_PATH  header libraries in <prefix>/include count as present
set -euo pipefail

QDIFF_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly QDIFF_ROOT
readonly QDIFF_PINS="$QDIFF_ROOT/scripts/libtorch.txt"

say() { printf 'qdiff set-up: %s\n' "$*" >&2; }
fail() {
  printf 'qdiff set-up: error: %s\n' "$@" >&2
  exit 2
}

# at_least HAVE WANT: dotted version numbers.
at_least() { [[ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" == "$2" ]]; }

# ---- Tools and header libraries ------------------------------------------------------------------------------------

# Prints the apt packages that are missing, one a line. An older tool counts as missing.
missing_packages() {
  local compiler="${CXX:-g++}" version
  if command -v "$compiler" >/dev/null; then
    local include_flags=() prefix
    local IFS=':;'
    for prefix in ${CMAKE_PREFIX_PATH:-}; do include_flags+=("-I$prefix/include"); done
    unset IFS
    # The preprocessor prints the name of each package whose header it cannot see.
    "$compiler" "${include_flags[@]}" -x c++ -E -P - 2>/dev/null <<'SOURCE' || echo g++
#if !__has_include(<catch2/catch.hpp>) && !__has_include(<catch2/catch_all.hpp>)
catch2
#endif
#if !__has_include(<nlohmann/json.hpp>)
nlohmann-json3-dev
#endif
#if !__has_include(<CLI/CLI.hpp>)
libcli11-dev
#endif
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
g++
#endif
SOURCE
  else
    printf '%s\n' g++ catch2 nlohmann-json3-dev libcli11-dev
  fi
  version="$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*//p' || true)"
  at_least "${version:-0}" 3.25 || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  command -v ccache >/dev/null || echo ccache
  [[ -n "$(python_with)" ]] || echo python3
  [[ -n "$(python_with jsonschema)" ]] || echo python3-jsonschema
  if [[ "${1:-}" == --checks ]]; then
    # Another version of clang-format breaks lines elsewhere, so the check knows one only.
    command -v clang-format-14 >/dev/null || echo clang-format-14
    command -v clang-tidy-14 >/dev/null || echo clang-tidy-14
    command -v shellcheck >/dev/null || echo shellcheck
    command -v chromium >/dev/null || command -v google-chrome >/dev/null || echo chromium
    command -v tidy >/dev/null || echo tidy
    can_fuzz || printf '%s\n' clang libclang-rt-dev
  fi
  if [[ "${1:-}" == --coverage ]]; then
    # Reads what gcov of the compiler's own version writes; 5 is the first that sums it up as JSON.
    version="$(gcovr --version 2>/dev/null | sed -n '1s/[^0-9]*//p' || true)"
    at_least "${version:-0}" 5 || echo gcovr
  fi
}

# Whether there is a clang that has libFuzzer, which some distributions package apart.
can_fuzz() {
  clang++ -fsanitize=fuzzer -x c++ - -o /dev/null 2>/dev/null <<'SOURCE'
extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }
SOURCE
}

# python_with MODULE...: the first Python that has all of them, or nothing. Nothing is imported.
python_with() {
  local python
  for python in python3 /usr/bin/python3; do
    command -v "$python" >/dev/null || continue
    if "$python" - "$@" 2>/dev/null <<'PYTHON'
import importlib.util, sys
sys.exit(not all(importlib.util.find_spec(name) for name in sys.argv[1:]))
PYTHON
    then
      command -v "$python"
      return
    fi
  done
}

# Without these the build is slower (ccache) or some tests are skipped (jsonschema, chromium, tidy), and no more. Where they
# cannot be installed, a file in the cache remembers it for a day, so that a machine without network is not asked each
# time.
is_optional() { [[ "$1" == ccache || "$1" == python3-jsonschema || "$1" == chromium || "$1" == tidy ]]; }
cache_folder() { echo "${QDIFF_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qdiff}"; }
refusal_file() { echo "$(cache_folder)/not-installed"; }
refused_lately() { [[ -n "$(find "$(refusal_file)" -mmin -1440 2>/dev/null)" && "$(<"$(refusal_file)")" == "$*" ]]; }

install_packages() {
  local package by_hand="install these Debian/Ubuntu packages, or what holds the same on this system: $*"
  local why_not=
  local as_root=()
  if [[ -n "${QDIFF_NO_INSTALL:-}" ]]; then
    why_not="QDIFF_NO_INSTALL is set"
  elif ! command -v apt-get >/dev/null; then
    why_not="this system has no apt-get"
  elif [[ $EUID -ne 0 ]]; then
    command -v sudo >/dev/null || why_not="neither root nor sudo"
    as_root=(sudo)
  fi
  if [[ -n "$why_not" ]]; then
    for package in "$@"; do is_optional "$package" || fail "$why_not; $by_hand"; done
    say "going on without $* ($why_not)"
    return
  fi
  say "installing by apt: $*"
  local log status=0
  log="$(mktemp)"
  {
    "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
  } >"$log" 2>&1 </dev/null || status=$?
  if [[ $status -ne 0 ]]; then
    tail -n 30 "$log" >&2
    rm -f "$log"
    for package in "$@"; do
      is_optional "$package" || fail "apt-get ended with status $status (its last lines are above); $by_hand"
    done
    say "going on without $*"
    mkdir -p "$(cache_folder)"
    echo "$*" >"$(refusal_file)"
    return
  fi
  rm -f "$log" "$(refusal_file)"
}

# ---- LibTorch ------------------------------------------------------------------------------------------------------

torch_by_hand() { echo "give QDIFF_TORCH_DIR=…/site-packages/torch of PyTorch $(torch_version)"; }
torch_version() { sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$QDIFF_PINS"; }

# Whether a folder …/site-packages/torch holds the headers and libraries of the right PyTorch, and, if that was built
# for CUDA, has the CUDA runtime and CUPTI beside it or in a toolkit (cmake/QdiffLibTorch.cmake looks in the same places).
usable_torch() {
  local version library directory found
  version="$(torch_version)"
  [[ -f "$1/include/ATen/ATen.h" && -f "$1/lib/libtorch_cpu.so" && -f "$1/lib/libc10.so" ]] || return 1
  grep -q "^__version__ = '${version%.*}\." "$1/version.py" || return 1
  grep -q "^cuda.*'[0-9.]*'" "$1/version.py" || return 0
  for library in libcudart.so.13 libcupti.so.13; do
    found=
    for directory in "$1/../nvidia/cu13/lib" /usr/local/cuda{,-13.0}/{lib64,extras/CUPTI/lib64}; do
      [[ ! -e "$directory/$library" ]] || found=yes
    done
    [[ -n "$found" ]] || return 1
  done
}

# The folder of the torch that some Python on this machine has, or nothing.
torch_of_python() {
  local python directory
  for python in python3 /usr/bin/python3; do
    command -v "$python" >/dev/null || continue
    directory="$("$python" - 2>/dev/null <<'PYTHON' || true
import importlib.util
spec = importlib.util.find_spec("torch")
print(spec.submodule_search_locations[0] if spec else "")
PYTHON
    )"
    if [[ -n "$directory" ]] && usable_torch "$directory"; then
      echo "$directory"
      return
    fi
  done
}

# Installs the pinned wheels into a virtual environment of their own ($1). Its file `complete` is written last and holds
# the pins' checksum, so a broken or outdated installation is made anew.
install_torch() {
  local environment="$1" pins="$2" python
  [[ -z "${QDIFF_NO_INSTALL:-}" ]] ||
    fail "LibTorch is missing, and QDIFF_NO_INSTALL is set; $(torch_by_hand)"
  [[ "$(uname -sm)" == "Linux x86_64" ]] ||
    fail "LibTorch is pinned for Linux on x86-64, this is $(uname -sm); $(torch_by_hand)"
  python="$(python_with venv ensurepip)"
  if [[ -z "$python" ]]; then
    install_packages python3 python3-venv
    python="$(python_with venv ensurepip)"
  fi
  say "downloading LibTorch $(torch_version) (about 550 MB, once) into $environment"
  rm -rf "$environment"
  "$python" -m venv "$environment"
  local log="$environment/pip.log"
  "$environment/bin/python" -m pip install --no-deps --require-hashes --only-binary=:all: --no-compile --no-cache-dir \
    --disable-pip-version-check --quiet -r "$QDIFF_PINS" >"$log" 2>&1 </dev/null || {
    tail -n 20 "$log" >&2
    fail "pip could not install LibTorch (its last lines are above; Python 3.11 to 3.13 have pinned wheels);" \
      "or $(torch_by_hand)"
  }
  echo "$pins" >"$environment/complete"
}

find_or_install_torch() {
  if [[ -n "${QDIFF_TORCH_DIR:-}" ]]; then
    usable_torch "$QDIFF_TORCH_DIR" ||
      fail "QDIFF_TORCH_DIR=$QDIFF_TORCH_DIR is not the torch folder of PyTorch $(torch_version), with include/ and lib/"
    return
  fi
  local cache environment pins
  cache="$(cache_folder)"
  environment="$cache/libtorch-$(torch_version)"
  pins="$(sha256sum <"$QDIFF_PINS" | cut -d ' ' -f 1)"
  if [[ ! -f "$environment/complete" || "$(<"$environment/complete")" != "$pins" ]]; then
    QDIFF_TORCH_DIR="$(torch_of_python)"
    [[ -z "$QDIFF_TORCH_DIR" ]] || return 0
    mkdir -p "$cache"
    local lock
    exec {lock}>"$cache/lock"
    flock "$lock"   # another clone may be installing: then its result serves this one too
    if [[ ! -f "$environment/complete" || "$(<"$environment/complete")" != "$pins" ]]; then
      install_torch "$environment" "$pins"
    fi
    exec {lock}>&-
  fi
  local found=("$environment"/lib/python3*/site-packages/torch)
  QDIFF_TORCH_DIR="${found[0]}"
  usable_torch "$QDIFF_TORCH_DIR" || fail "$environment is damaged; remove it and run this again"
}

# --------------------------------------------------------------------------------------------------------------------

setup() {
  local missing
  mapfile -t missing < <(missing_packages "$@" | sort -u)
  if [[ ${#missing[@]} -gt 0 ]] && ! refused_lately "${missing[@]}"; then
    install_packages "${missing[@]}"
  fi
  find_or_install_torch
  QDIFF_PYTHON="$(python_with jsonschema)"
  [[ -n "$QDIFF_PYTHON" ]] || QDIFF_PYTHON="$(python_with)"
  export QDIFF_TORCH_DIR QDIFF_PYTHON
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
  case "${1:-}" in
    "" | --checks | --coverage) ;;
    *)
      sed -n '2,/^set -euo/{/^set -euo/d;s/^# \{0,1\}//;p}' "$0" >&2
      [[ "$1" == --help ]] || exit 2
      exit 0
      ;;
  esac
  setup "$@"
  say "ready; LibTorch in $QDIFF_TORCH_DIR"
fi
