#include "litert/options.h"

#include <cstdlib>
#include <cstring>

namespace tandem::litert {

Status add_toml(const Library& api, RtOptions options, const char* identifier, const std::string& toml) {
  RtOpaqueOptions opaque = nullptr;
  char* text = strdup(toml.c_str());
  if (text == nullptr) return {Code::kOutOfMemory, "out of memory for LiteRT options"};
  TANDEM_RETURN_IF_ERROR(
      to_status(api.CreateOpaqueOptions(identifier, text, std::free, &opaque), std::string(identifier) + " options"));
  return to_status(api.AddOpaqueOptions(options, opaque), std::string(identifier) + " options");
}

Result<std::string> toml_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      return Status(Code::kInvalidRequest, "the cache folder's path contains a control character; choose another");
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

Status add_runtime_options(const Library& api, RtOptions options, const std::vector<std::string>& keys) {
  // Mode 2 keeps messages in a buffer: status numbers alone name no cause, and a library must not print.
  std::string toml = "error_reporter_mode = 2\n";
  if (!keys.empty()) {
    toml += "selected_signature_keys = [";
    for (std::size_t i = 0; i < keys.size(); ++i) toml += (i ? ", \"" : "\"") + keys[i] + "\"";
    toml += "]\n";
  }
  return add_toml(api, options, "runtime_options_string", toml);
}

}  // namespace tandem::litert
