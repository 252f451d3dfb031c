// Mapped files: contents, private writes, ranges, sizes above 4 GiB, and files that are missing or change.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "base/file_map.h"
#include "bundle_fixture.h"
#include "check.h"

namespace {

using fixture::contains;
using fixture::TempFile;
using tandem::FileMap;

std::string text_of(std::span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

TEST(maps_a_file) {
  const TempFile file("hello, map");
  auto opened = FileMap::open(file.path(), FileMap::Access::kReadOnly);
  CHECK(opened.ok());
  FileMap map = std::move(opened).value();
  CHECK_EQ(text_of(map.bytes()), "hello, map");
  CHECK_EQ(map.file_bytes(), 10u);
  CHECK_EQ(map.path(), file.path());
  CHECK(map.fd() >= 0);
  CHECK(map.writable_bytes().empty());
  CHECK(map.check_size().ok());

  const FileMap moved = std::move(map);
  CHECK_EQ(text_of(moved.bytes()), "hello, map");
  CHECK(map.bytes().empty() && map.fd() == -1);  // NOLINT: a moved-from map is empty
}

TEST(private_writes_stay_private) {
  const TempFile file("hello, map");
  auto map = FileMap::open(file.path(), FileMap::Access::kPrivateWritable);
  CHECK(map.ok());
  map.value().writable_bytes()[0] = std::byte{'J'};
  CHECK_EQ(text_of(map.value().bytes()), "Jello, map");
  CHECK_EQ(file.read(), "hello, map");
}

TEST(ranges) {
  std::string content(100000, 'a');
  content[70001] = 'b';
  const TempFile file(content);
  auto map = FileMap::open_range(file.path(), FileMap::Access::kPrivateWritable, 70001, 3);
  CHECK(map.ok());
  CHECK_EQ(text_of(map.value().bytes()), "baa");
  CHECK_EQ(map.value().file_bytes(), 100000u);
  CHECK(FileMap::open_range(file.path(), FileMap::Access::kReadOnly, 100000, 0).ok());
  for (const auto& [offset, bytes] : {std::pair<uint64_t, uint64_t>{100000, 1}, {99999, 2}, {100001, 0}, {1, ~0ull}}) {
    const auto outside = FileMap::open_range(file.path(), FileMap::Access::kReadOnly, offset, bytes);
    CHECK(!outside.ok());
    CHECK(contains(outside.status().message(), file.path()));
  }
}

TEST(errors_name_path_and_cause) {
  const auto missing = FileMap::open("/nonexistent/model", FileMap::Access::kReadOnly);
  CHECK(!missing.ok());
  CHECK(missing.status().code() == tandem::Code::kIo);
  CHECK_EQ(missing.status().message(), "cannot open '/nonexistent/model': No such file or directory");
  CHECK(contains(FileMap::open("/", FileMap::Access::kReadOnly).status().message(), "Is a directory"));

  const TempFile pipe;
  unlink(pipe.path().c_str());
  CHECK_EQ(mkfifo(pipe.path().c_str(), 0600), 0);
  CHECK(contains(FileMap::open(pipe.path(), FileMap::Access::kReadOnly).status().message(), "not a regular file"));
}

TEST(empty_file) {
  const TempFile file;
  const auto map = FileMap::open(file.path(), FileMap::Access::kReadOnly);
  CHECK(map.ok());
  CHECK(map.value().bytes().empty());
}

TEST(notices_a_file_that_shrinks) {
  const TempFile file(std::string(10000, 'x'));
  const auto map = FileMap::open(file.path(), FileMap::Access::kReadOnly);
  CHECK(map.ok());
  CHECK_EQ(truncate(file.path().c_str(), 5000), 0);
  const tandem::Status status = map.value().check_size();
  CHECK(!status.ok());
  CHECK(contains(status.message(), "10000") && contains(status.message(), "5000"));
  std::vector<std::byte> part(100);
  CHECK(map.value().read_at(4900, part).ok());
  CHECK(!map.value().read_at(4901, part).ok());
  CHECK(!map.value().read_at(9901, part).ok());
}

TEST(files_above_4_gib) {
  const TempFile file;
  constexpr uint64_t kBytes = (uint64_t{5} << 30) + 3;
  if (truncate(file.path().c_str(), static_cast<off_t>(kBytes)) != 0) return;  // sparse; not on every file system
  {
    const int fd = ::open(file.path().c_str(), O_WRONLY);
    CHECK_EQ(pwrite(fd, "end", 3, static_cast<off_t>(kBytes - 3)), 3);
    ::close(fd);
  }
  const auto map = FileMap::open(file.path(), FileMap::Access::kPrivateWritable);
  CHECK(map.ok());
  CHECK_EQ(map.value().bytes().size(), kBytes);
  CHECK_EQ(text_of(map.value().bytes().last(3)), "end");
  std::vector<std::byte> part(3);
  CHECK(map.value().read_at(kBytes - 3, part).ok());
  CHECK_EQ(text_of(part), "end");
}
