// Pages of 2 MiB in place of 4 KiB for memory that is read from end to end again and again: where page tables compete
// for the caches with what they map (gigabytes of weights for every token, on a busy or a virtual machine), walking
// them costs more than the reading. All of it is advice: where the system has no such pages nothing changes and nothing
// fails. Depends on nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace tandem {

// Asks for huge pages in memory that was not touched yet, anonymous or mapped from a file. A file's pages that are in
// the page cache already stay as they are.
void prefer_huge_pages(const void* memory, std::size_t bytes);

// Where this process has mapped the whole file `path`, if it has.
std::span<const std::byte> mapped_file(const std::string& path);

// Gives an empty file whose space was allocated (fallocate) huge pages in the page cache, which writes then fill: pages
// that a write makes are small. `fd` is open for reading and writing.
void allocate_huge_pages(int fd, uint64_t bytes);

}  // namespace tandem
