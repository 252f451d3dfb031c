// A piece of a KV cache, shared by the caches that were cloned from each other until one of them writes to it. Memory
// is anonymous (zeroed, committed on first touch) or a private mapping of a snapshot file. Depends on base. Thread
// rule: references may be copied, dropped and counted from any thread; who writes must be the only holder.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/file_map.h"
#include "base/mapping.h"
#include "base/status.h"

namespace tandem {

class PageRef;

class KvPage {
 public:
  // kOutOfMemory when the system refuses.
  static Result<PageRef> allocate(std::size_t bytes);
  // `data` lies in `file`, which was opened kPrivateWritable; writing changes this process's copy alone.
  static PageRef in_file(std::shared_ptr<const FileMap> file, char* data, std::size_t bytes);

  char* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  friend class PageRef;
  KvPage() = default;

  std::atomic<uint32_t> references_ = 0;
  char* data_ = nullptr;
  std::size_t bytes_ = 0;
  Mapping memory_;                       // of anonymous pages
  std::shared_ptr<const FileMap> file_;  // of the others
};

// A counted reference, possibly null. Not std::shared_ptr: its use_count() is no synchronisation, so that a sole holder
// could not know that the reads of those who let go have ended.
class PageRef {
 public:
  PageRef() = default;
  explicit PageRef(KvPage* page) : page_(page) { hold(); }
  PageRef(const PageRef& other) : page_(other.page_) { hold(); }
  PageRef(PageRef&& other) noexcept : page_(std::exchange(other.page_, nullptr)) {}
  PageRef& operator=(PageRef other) noexcept {
    std::swap(page_, other.page_);
    return *this;
  }
  ~PageRef() {
    if (page_ && page_->references_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete page_;
  }

  explicit operator bool() const { return page_ != nullptr; }
  KvPage* operator->() const { return page_; }
  const KvPage* get() const { return page_; }
  // Whether nobody else holds the page; then nobody else can come to hold it but through this reference.
  bool sole() const { return page_->references_.load(std::memory_order_acquire) == 1; }

 private:
  void hold() {
    if (page_) page_->references_.fetch_add(1, std::memory_order_relaxed);
  }

  KvPage* page_ = nullptr;
};

}  // namespace tandem
