#include "embedded/deciding_sources.h"
#include "harness/reference_cache/cache.h"

namespace qdiff::reference_cache {

std::string sources_hash() { return embedded::kDecidingSources; }

}  // namespace qdiff::reference_cache
