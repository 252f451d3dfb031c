#include "litert/program_cache.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "base/file_map.h"
#include "base/sha256.h"

namespace tandem::litert {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSuffix = "_mldrift_program_cache.bin";  // what the accelerator adds to its key
constexpr const char* kStamp = ".sha256";

// Checksum of a file; empty when it cannot be read.
std::string checksum(const std::string& path) {
  const Result<FileMap> file = FileMap::open(path, FileMap::Access::kReadOnly);
  return file.ok() ? to_hex(sha256(file.value().bytes())) : "";
}

std::string first_word(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

}  // namespace

ProgramCache::ProgramCache(const std::string& folder, const std::string& name) : key_(name) {
  if (folder.empty()) return;
  std::string pattern = folder + "/.programs-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) return;
  own_ = pattern;
  made_ = own_ + "/" + name + kSuffix;
  final_ = folder + "/" + name + ".programs";
  const std::string stamp = first_word(final_ + kStamp);
  std::error_code failed;
  warm_ = !stamp.empty() && fs::copy_file(final_, made_, failed) && checksum(made_) == stamp;
  if (!warm_) fs::remove(made_, failed);
}

ProgramCache::~ProgramCache() {
  std::error_code ignored;
  if (!own_.empty()) fs::remove_all(own_, ignored);
}

void ProgramCache::commit() const {
  if (own_.empty() || warm_) return;
  const std::string sum = checksum(made_);
  if (sum.empty()) return;
  // A stamp of another file only makes the next start a cold one.
  const std::string stamp = made_ + kStamp;
  std::error_code failed;
  if (!(std::ofstream(stamp) << sum << "\n").flush()) return;
  fs::rename(made_, final_, failed);
  if (!failed) fs::rename(stamp, final_ + kStamp, failed);
}

}  // namespace tandem::litert
