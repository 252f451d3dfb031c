#include "kv/page.h"

namespace tandem {

Result<PageRef> KvPage::allocate(std::size_t bytes) {
  TANDEM_ASSIGN_OR_RETURN(Mapping memory, reserve(bytes, "a page of the KV cache"));
  PageRef page(new KvPage);
  page->data_ = static_cast<char*>(memory.get());
  page->bytes_ = bytes;
  page->memory_ = std::move(memory);
  return page;
}

PageRef KvPage::in_file(std::shared_ptr<const FileMap> file, char* data, std::size_t bytes) {
  PageRef page(new KvPage);
  page->data_ = data;
  page->bytes_ = bytes;
  page->file_ = std::move(file);
  return page;
}

}  // namespace tandem
