#include "model/packed_weights.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

#include "base/cpu_features.h"
#include "base/huge_pages.h"
#include "bundle/weight_scales.h"
#include "kernels/pack.h"

namespace tandem {
namespace {

constexpr uint64_t kMagic = 0x3157504d45444e54;  // "TNDEMPW1"
constexpr std::size_t kHeaderWords = 2, kMatrixWords = 8;
constexpr uint64_t kAlignment = 64;
constexpr uint64_t kMostMatrices = 1 << 16;
constexpr uint64_t kMostSide = 1 << 24;  // inputs or outputs
constexpr int64_t kTaskBytes = 1 << 21;  // of weights that a thread reads at a time
constexpr int64_t kScaleTask = 1 << 16;  // scales that a thread looks at at a time

using Words = std::vector<uint64_t>;

uint64_t aligned(uint64_t at) { return (at + kAlignment - 1) / kAlignment * kAlignment; }

PackedMatrix shape_of(const MatrixPlace& place) {
  PackedMatrix matrix;
  matrix.inputs = static_cast<int64_t>(place.inputs);
  matrix.outputs = static_cast<int64_t>(place.outputs);
  matrix.bits = static_cast<int>(place.bits);
  matrix.block = static_cast<int64_t>(place.block);
  return matrix;
}

uint64_t header_bytes(std::size_t matrices) {
  return aligned(sizeof(uint64_t) * (kHeaderWords + kMatrixWords * matrices));
}

Status write_all(int fd, std::span<const std::byte> bytes, uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return {Code::kIo, "cannot write packed weights: " + std::generic_category().message(errno)};
    bytes = bytes.subspan(static_cast<std::size_t>(put));
    offset += static_cast<uint64_t>(put);
  }
  return {};
}

// Calls work(i) for i in [0, count) on the pool; the first error.
Status each(ThreadPool& pool, int64_t count, const std::function<Status(int64_t)>& work) {
  std::mutex mutex;
  Status first;
  pool.run(count, [&](int64_t i) {
    Status status = work(i);
    const std::lock_guard lock(mutex);
    if (first.ok() && !status.ok()) first = std::move(status);
  });
  return first;
}

uint64_t file_bytes(const WeightTable& table, bool byte_scales) {
  const std::vector<const MatrixPlace*> all = matrices_of(table);
  uint64_t bytes = header_bytes(all.size());
  for (const MatrixPlace* place : all) {
    PackedMatrix matrix = shape_of(*place);
    matrix.byte_scales = byte_scales && matrix.block != 0;
    bytes += aligned(static_cast<uint64_t>(matrix.bytes()));
  }
  return bytes;
}

// Whether products of many rows go to AMX, whose kernels want int4 without blocks wide and know no byte scales.
bool has_tiles() {
  const Result<Isa> isa = select_isa();
  return isa.ok() && isa.value() == Isa::kAvx512Amx;
}

// One matrix from the bundle to the file.
class Packing {
 public:
  Packing(const WeightSource& source, ThreadPool& pool, int fd) : source_(source), pool_(pool), fd_(fd) {}

  // `matrix` says what was made; its data stays empty.
  Status pack(const MatrixPlace& place, const WeightScales& scales, bool tiles, uint64_t offset, PackedMatrix* matrix) {
    *matrix = shape_of(place);
    matrix->wide = tiles && matrix->bits == 4 && matrix->block == 0;
    const int64_t count = matrix->block == 0 ? 1 : matrix->inputs / matrix->block;  // scales of an output
    const int64_t scale_bytes = count * (matrix->block == 0 ? 4 : 2);
    if (scales.bytes != static_cast<uint64_t>(matrix->outputs * scale_bytes)) {
      return {Code::kBundle, "a matrix has scales of another number than it needs; convert the model again"};
    }
    scales_.resize(scales.bytes);
    TANDEM_RETURN_IF_ERROR(source_.bundle.read_at(source_.offset + scales.offset, scales_));
    if (matrix->block != 0 && !tiles) matrix->byte_scales = fit(matrix->outputs, count);

    const int64_t row_bytes = matrix->inputs * matrix->bits / 8, group = matrix->group();
    const int64_t step = std::max<int64_t>(1, kTaskBytes / (row_bytes * group));  // groups
    return each(pool_, (matrix->groups() + step - 1) / step, [&](int64_t i) -> Status {
      const int64_t first = i * step, last = std::min(first + step, matrix->groups());
      std::vector<std::byte> raw(static_cast<std::size_t>((last - first) * group * row_bytes));
      std::vector<std::byte> packed(static_cast<std::size_t>((last - first) * matrix->group_bytes()));
      const int64_t from = first * group * row_bytes;
      TANDEM_RETURN_IF_ERROR(source_.bundle.read_at(source_.offset + place.offset + static_cast<uint64_t>(from), raw));
      for (int64_t g = first; g < last; ++g) {
        const RawRows rows{raw.data() + (g - first) * group * row_bytes, scales_.data() + g * group * scale_bytes};
        if (!pack_group(*matrix, rows, packed.data() + (g - first) * matrix->group_bytes())) {
          return {Code::kBundle, "a matrix has scales that are no positive numbers; convert the model again"};
        }
      }
      return write_all(fd_, packed, offset + static_cast<uint64_t>(first * matrix->group_bytes()));
    });
  }

 private:
  bool fit(int64_t outputs, int64_t count) {
    const int64_t step = std::max<int64_t>(1, kScaleTask / count);
    return each(pool_, (outputs + step - 1) / step,
                [&](int64_t i) -> Status {
                  const int64_t first = i * step, last = std::min(first + step, outputs);
                  if (fit_bytes(scales_.data() + first * count * 2, last - first, count)) return {};
                  return {Code::kBundle, "more than 8 bits"};
                })
        .ok();
  }

  const WeightSource& source_;
  ThreadPool& pool_;
  int fd_;
  std::vector<std::byte> scales_;  // of the matrix in progress
};

// Of a matrix as the file describes it; no inputs when that cannot be one.
PackedMatrix described(const uint64_t* words) {
  const auto [inputs, outputs, bits, block] = std::array{words[1], words[2], words[3], words[4]};
  PackedMatrix matrix;
  if (inputs == 0 || inputs % 64 != 0 || inputs > kMostSide || outputs == 0 || outputs % 64 != 0 ||
      outputs > kMostSide || (bits != 4 && bits != 8) || words[5] > 1 || words[6] > 1) {
    return matrix;
  }
  if (block != 0 && (bits != 4 || block % 32 != 0 || inputs % block != 0 || words[5] != 0)) return matrix;
  if (words[6] != 0 && block == 0) return matrix;
  matrix.inputs = static_cast<int64_t>(inputs);
  matrix.outputs = static_cast<int64_t>(outputs);
  matrix.bits = static_cast<int>(bits);
  matrix.block = static_cast<int64_t>(block);
  matrix.wide = words[5] != 0;
  matrix.byte_scales = words[6] != 0;
  return matrix;
}

}  // namespace

uint64_t PackedWeights::most_bytes(const WeightTable& table) { return file_bytes(table, false); }

uint64_t PackedWeights::expected_bytes(const WeightTable& table) { return file_bytes(table, !has_tiles()); }

Status PackedWeights::make(const WeightSource& source, ThreadPool& pool, int fd) {
  const std::vector<const MatrixPlace*> all = matrices_of(source.table);
  std::set<uint64_t> buffers;
  for (const MatrixPlace* place : all) buffers.insert(place->buffer);
  TANDEM_ASSIGN_OR_RETURN(const auto scales, find_scales(source.model, buffers));

  Packing packing(source, pool, fd);
  Words header{kMagic, all.size()};
  uint64_t at = header_bytes(all.size());
  for (const MatrixPlace* place : all) {
    PackedMatrix matrix;
    TANDEM_RETURN_IF_ERROR(packing.pack(*place, scales.at(place->buffer), has_tiles(), at, &matrix));
    header.insert(header.end(), {place->buffer, place->inputs, place->outputs, place->bits, place->block,
                                 uint64_t{matrix.wide}, uint64_t{matrix.byte_scales}, at});
    at = aligned(at + static_cast<uint64_t>(matrix.bytes()));
  }
  TANDEM_RETURN_IF_ERROR(write_all(fd, std::as_bytes(std::span(header)), 0));
  if (ftruncate(fd, static_cast<off_t>(at)) == 0) return {};
  return {Code::kIo, "cannot write packed weights: " + std::generic_category().message(errno)};
}

Result<PackedWeights> PackedWeights::open(const std::string& path, int fd) {
  const std::string name = path.empty() ? "/proc/self/fd/" + std::to_string(fd) : path;
  PackedWeights weights;
  TANDEM_ASSIGN_OR_RETURN(weights.map_, FileMap::open(name, FileMap::Access::kReadOnly));
  const std::span<const std::byte> bytes = weights.map_.bytes();
  prefer_huge_pages(bytes.data(), bytes.size());

  const Status strange(Code::kBackend, "'" + name + "' holds no packed weights of a known layout");
  Words start(kHeaderWords);
  if (bytes.size() < sizeof(uint64_t) * kHeaderWords) return strange;
  std::memcpy(start.data(), bytes.data(), sizeof(uint64_t) * kHeaderWords);
  if (start[0] != kMagic || start[1] > kMostMatrices || header_bytes(start[1]) > bytes.size()) return strange;
  Words words(kMatrixWords * start[1]);
  std::memcpy(words.data(), bytes.data() + sizeof(uint64_t) * kHeaderWords, sizeof(uint64_t) * words.size());
  for (std::size_t i = 0; i < words.size(); i += kMatrixWords) {
    PackedMatrix matrix = described(&words[i]);
    const uint64_t offset = words[i + 7], size = static_cast<uint64_t>(matrix.bytes());
    if (matrix.inputs == 0 || offset % kAlignment != 0 || offset > bytes.size() || size > bytes.size() - offset) {
      return strange;
    }
    matrix.data = bytes.data() + offset;
    weights.matrices_[words[i]] = matrix;
  }
  return weights;
}

PackedMatrix PackedWeights::find(uint64_t index) const {
  const auto found = matrices_.find(index);
  return found == matrices_.end() ? PackedMatrix() : found->second;
}

}  // namespace tandem
