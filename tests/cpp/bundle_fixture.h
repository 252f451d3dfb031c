// Small bundles for tests, written from scratch: a forward-only flatbuffer writer, a tiny TFLite model and a container
// with a manifest that fits it. Every part can be replaced, so that tests can build what no converter would.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/sha256.h"

namespace fixture {

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

inline std::string hex_hash(std::string_view text) { return tandem::to_hex(tandem::sha256(bytes_of(text))); }

template <class T>
std::string raw(T value) {
  std::string text(sizeof(T), '\0');
  std::memcpy(text.data(), &value, sizeof(T));
  return text;
}

// ---- flatbuffers --------------------------------------------------------------------------------------------------

struct FlatNode {
  enum class Kind { kTable, kTables, kString, kScalars };
  Kind kind = Kind::kTable;
  int slot = 0;                                      // in the parent table
  std::vector<std::pair<int, std::string>> scalars;  // of a table: slot, raw bytes
  std::vector<FlatNode> children;                    // of a table or of a vector of tables
  std::string bytes;                                 // of a string or a vector of scalars
  uint32_t count = 0;                                // elements of a vector of scalars

  FlatNode at(int new_slot) const {
    FlatNode copy = *this;
    copy.slot = new_slot;
    return copy;
  }
};

inline FlatNode table(std::vector<std::pair<int, std::string>> scalars, std::vector<FlatNode> children = {}) {
  FlatNode node;
  node.scalars = std::move(scalars);
  node.children = std::move(children);
  return node;
}
inline FlatNode tables(std::vector<FlatNode> items) {
  FlatNode node;
  node.kind = FlatNode::Kind::kTables;
  node.children = std::move(items);
  return node;
}
inline FlatNode text(std::string value) {
  FlatNode node;
  node.kind = FlatNode::Kind::kString;
  node.bytes = std::move(value);
  return node;
}
template <class T>
FlatNode scalars(const std::vector<T>& values) {
  FlatNode node;
  node.kind = FlatNode::Kind::kScalars;
  node.count = static_cast<uint32_t>(values.size());
  for (const T value : values) node.bytes += raw(value);
  return node;
}

class FlatWriter {
 public:
  static std::string write(const FlatNode& root, std::string_view identifier = "") {
    FlatWriter writer;
    writer.out_ = raw(uint32_t{0}) + std::string(identifier);
    const size_t at = writer.emit(root);
    writer.patch(0, static_cast<uint32_t>(at));
    return writer.out_;
  }

 private:
  void pad(size_t alignment) { out_.append((alignment - out_.size() % alignment) % alignment, '\0'); }
  void patch(size_t at, uint32_t value) { std::memcpy(out_.data() + at, &value, sizeof(value)); }

  size_t emit(const FlatNode& node) {
    pad(8);
    switch (node.kind) {
      case FlatNode::Kind::kTable:
        return emit_table(node);
      case FlatNode::Kind::kTables: {
        const size_t at = out_.size();
        out_ += raw(static_cast<uint32_t>(node.children.size()));
        out_.append(4 * node.children.size(), '\0');
        for (size_t i = 0; i < node.children.size(); ++i) {
          const size_t entry = at + 4 + 4 * i;
          patch(entry, static_cast<uint32_t>(emit(node.children[i]) - entry));
        }
        return at;
      }
      case FlatNode::Kind::kString: {
        const size_t at = out_.size();
        out_ += raw(static_cast<uint32_t>(node.bytes.size())) + node.bytes + '\0';
        return at;
      }
      case FlatNode::Kind::kScalars: {
        out_.append(4, '\0');  // elements of 8 bytes are aligned, their count stands before them
        const size_t at = out_.size();
        out_ += raw(node.count) + node.bytes;
        return at;
      }
    }
    return 0;
  }

  size_t emit_table(const FlatNode& node) {
    int slots = 0;
    for (const auto& [slot, value] : node.scalars) slots = std::max(slots, slot + 1);
    for (const FlatNode& child : node.children) slots = std::max(slots, child.slot + 1);
    std::vector<uint16_t> vtable(static_cast<size_t>(slots) + 2, 0);
    std::string body(4, '\0');
    const auto place = [&](int slot, const std::string& value) {
      body.append((value.size() - body.size() % value.size()) % value.size(), '\0');
      vtable[static_cast<size_t>(slot) + 2] = static_cast<uint16_t>(body.size());
      body += value;
      return body.size() - value.size();
    };
    for (const auto& [slot, value] : node.scalars) place(slot, value);
    std::vector<size_t> offsets;
    for (const FlatNode& child : node.children) offsets.push_back(place(child.slot, raw(uint32_t{0})));
    vtable[0] = static_cast<uint16_t>(2 * vtable.size());
    vtable[1] = static_cast<uint16_t>(body.size());

    const size_t vtable_at = out_.size();
    for (const uint16_t entry : vtable) out_ += raw(entry);
    pad(8);
    const size_t at = out_.size();
    out_ += body;
    patch(at, static_cast<uint32_t>(at - vtable_at));
    for (size_t i = 0; i < node.children.size(); ++i) {
      const size_t entry = at + offsets[i];
      patch(entry, static_cast<uint32_t>(emit(node.children[i]) - entry));
    }
    return at;
  }

  std::string out_;
};

// ---- a model ------------------------------------------------------------------------------------------------------

struct TinyModel {
  uint32_t version = 3;
  uint32_t weight_buffer = 1;
  int32_t op_input = 0;
  uint32_t opcode = 0;
  uint32_t signature_tensor = 0;
  uint32_t signature_graph = 0;
  int32_t rows = 4;  // of the int8 weight [rows, 16]; its buffer has 64 bytes
  int8_t type = 9;   // INT8
  uint64_t weight_offset = 4096;
  uint64_t weight_bytes = 64;

  // The flatbuffer, zeros up to byte 4096, and 64 bytes of weights behind it.
  std::string write() const {
    const FlatNode shape = scalars<int32_t>({1, 16});
    const FlatNode input = table({{1, raw(int8_t{0})}, {2, raw(uint32_t{0})}}, {shape.at(0), text("x").at(3)});
    const FlatNode weight = table({{1, raw(type)}, {2, raw(weight_buffer)}},
                                  {scalars<int32_t>({rows, 16}).at(0), text("w").at(3),
                                   table({}, {scalars<float>({0.5f}).at(2), scalars<int64_t>({0}).at(3)}).at(4)});
    const FlatNode output = table({{1, raw(int8_t{0})}, {2, raw(uint32_t{0})}}, {shape.at(0), text("y").at(3)});
    const FlatNode op =
        table({{0, raw(opcode)}}, {scalars<int32_t>({op_input, 1, -1}).at(1), scalars<int32_t>({2}).at(2)});
    const FlatNode graph = table({}, {tables({input, weight, output}).at(0), scalars<int32_t>({0}).at(1),
                                      scalars<int32_t>({2}).at(2), tables({op}).at(3), text("main").at(4)});
    const auto map = [](const char* name, uint32_t tensor) { return table({{1, raw(tensor)}}, {text(name).at(0)}); };
    const FlatNode signature = table({{4, raw(signature_graph)}}, {tables({map("x", signature_tensor)}).at(0),
                                                                   tables({map("y", 2)}).at(1), text("decode").at(2)});
    const FlatNode buffers = tables({table({}), table({{1, raw(weight_offset)}, {2, raw(weight_bytes)}})});
    const FlatNode codes = tables({table({{0, raw(int8_t{9})}, {3, raw(int32_t{9})}})});
    std::string model = FlatWriter::write(
        table({{0, raw(version)}}, {codes.at(1), tables({graph}).at(2), buffers.at(4), tables({signature}).at(7)}),
        "TFL3");
    model.resize(4096, '\0');
    for (int i = 0; i < 64; ++i) model += static_cast<char>(i);
    return model;
  }
};

// ---- a bundle -----------------------------------------------------------------------------------------------------

struct Part {
  std::string model_type;  // empty: no such item
  uint8_t type = 0;        // AnySectionDataType
  std::string name;        // in the manifest
  std::string bytes;
  uint64_t nested_at = 0;  // not 0: it is a part of the part before it, from this byte on
};

inline std::vector<Part> usual_parts() {
  return {{"", 5, "llm_metadata", "metadata bytes"},
          {"", 6, "hf_tokenizer", std::string(20000, 'z')},
          {"TF_lite_prefill_decode", 3, "tf_lite_prefill_decode", TinyModel().write()},
          {"tandem_tokenizer", 1, "tandem_tokenizer", std::string(16384, 't')}};
}

// The usual parts and an embedder inside the model: another model, whose weights are the host's first 64 bytes.
inline std::vector<Part> parts_with_embedder() {
  std::vector<Part> parts = usual_parts();
  const uint64_t at = 16384;
  TinyModel host, guest;
  host.weight_offset = at + guest.weight_offset;
  std::string bytes = host.write().substr(0, 4096);
  bytes.resize(at, '\0');
  parts[2].bytes = bytes + guest.write() + "further weights of the host";
  parts.insert(parts.begin() + 3, {"tf_lite_embedder", 3, "tf_lite_embedder", guest.write(), at});
  return parts;
}

inline std::string usual_manifest(const std::vector<Part>& parts, const std::string& header_hash) {
  std::string sections;
  for (const Part& part : parts) {
    sections +=
        (sections.empty() ? "" : ",") + ("\"" + part.name + "\":{\"bytes\":" + std::to_string(part.bytes.size()) +
                                         ",\"sha256\":\"" + hex_hash(part.bytes) + "\"}");
  }
  return R"({"add_bos":true,"chat_template":"{{ messages }}","context":64,"family":"gemma3_text","format":1,)"
         R"("generator":"tandem 0.1.0","header_sha256":")" +
         header_hash +
         R"(","model":{"attention_scale":0.0625,"bos_id":2,"embed_scale":16.0,"eos_ids":[1,106],"family":"gemma3_text",)"
         R"("final_softcap":null,"hidden_size":64,"intermediate_size":128,"layer_scalar":false,"layers":[)"
         R"({"head_dim":16,"k_eq_v":false,"kv_heads":2,"rope":{"factor":1.0,"rotated":8,"theta":10000.0},"window":8},)"
         R"({"head_dim":32,"k_eq_v":true,"kv_heads":1,"rope":{"factor":8.0,"rotated":4,"theta":1000000.0},"window":0}],)"
         R"("max_context":512,"media":{"image_token_id":200,"patch":16},"norm_offset":1.0,"num_heads":4,"pad_id":0,)"
         R"("rms_norm_eps":1e-06,"sampler":{"temperature":1.0},"suppress_ids":[],"v_norm":false,"vocab_size":256},)"
         R"("prefill_sizes":[32,8],"quantization":"int8","sampler":{"temperature":1.0,"top_k":64,"top_p":0.95},)"
         R"("sections":{)" +
         sections + R"(},"source":{"dtype":"bfloat16","fingerprint":")" + std::string(64, 'f') +
         R"("},"tokens":{"bos":2,"eos":[1,106],"pad":0,"suppress":[3]}})";
}

inline std::string manifest_section(const std::string& json) {
  const tandem::Sha256Digest digest = tandem::sha256(bytes_of(json));
  return "TANDEMM1" + raw(static_cast<uint32_t>(json.size())) + raw(uint32_t{0}) +
         std::string(reinterpret_cast<const char*>(digest.data()), digest.size()) + json;
}

struct Placed {
  uint64_t begin = 0, end = 0;
};

// How to build a bundle; the hooks see what would be written and may change it.
struct Recipe {
  std::vector<Part> parts = usual_parts();
  bool with_manifest = true;
  uint32_t major = 1;
  std::function<void(std::string&)> edit_manifest;        // the JSON text
  std::function<void(std::vector<Placed>&)> edit_layout;  // what the header says; the manifest's is the last
  std::function<void(std::string&)> edit_header;          // the header block, before it is hashed
};

struct Built {
  std::string bytes;
  std::vector<Placed> sections;
};

inline std::string header_block(const std::vector<Part>& parts, const std::vector<Placed>& placed, uint32_t major) {
  const auto item = [](const char* key, const std::string& value) {
    return table({{1, raw(uint8_t{9})}}, {text(key).at(0), table({}, {text(value).at(0)}).at(2)});
  };
  std::vector<FlatNode> objects;
  for (size_t i = 0; i < parts.size(); ++i) {
    std::vector<FlatNode> items;
    if (!parts[i].model_type.empty()) items.push_back(item("model_type", parts[i].model_type));
    objects.push_back(
        table({{1, raw(placed[i].begin)}, {2, raw(placed[i].end)}, {3, raw(parts[i].type)}}, {tables(items).at(0)}));
  }
  const FlatNode number = table({{1, raw(uint8_t{10})}}, {text("n").at(0), table({{0, raw(uint64_t{7})}}).at(2)});
  const FlatNode system = table({}, {tables({item("Authors", "nobody"), number}).at(0)});
  const std::string flat = FlatWriter::write(table({}, {system.at(0), table({}, {tables(objects).at(0)}).at(1)}));
  std::string block = "LITERTLM" + raw(major) + raw(uint32_t{7}) + raw(uint32_t{0}) + raw(uint32_t{0}) +
                      raw(uint64_t{32 + flat.size()}) + flat;
  block.resize(16384, '\0');
  return block;
}

inline Built build(const Recipe& recipe = {}) {
  std::vector<Part> parts = recipe.parts;
  if (recipe.with_manifest) parts.push_back({"tandem_manifest", 1, "tandem_manifest", ""});
  std::string block, json;
  std::vector<Placed> placed;
  // Twice: the second time the manifest knows the hash of the header, whose length it does not change.
  for (int round = 0; round < 2; ++round) {
    json = usual_manifest(recipe.parts, round == 0 ? std::string(64, '0') : hex_hash(block));
    if (recipe.edit_manifest) recipe.edit_manifest(json);
    if (recipe.with_manifest) parts.back().bytes = manifest_section(json);
    placed.clear();
    uint64_t at = 16384;
    for (const Part& part : parts) {
      if (part.nested_at != 0) {
        const uint64_t begin = placed.back().begin + part.nested_at;
        placed.push_back({begin, begin + part.bytes.size()});
        continue;
      }
      placed.push_back({at, at + part.bytes.size()});
      at = (at + part.bytes.size() + 16383) / 16384 * 16384;
    }
    std::vector<Placed> stated = placed;
    if (recipe.edit_layout) recipe.edit_layout(stated);
    block = header_block(parts, stated, recipe.major);
    if (recipe.edit_header) recipe.edit_header(block);
  }
  Built built{block, placed};
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].nested_at != 0) continue;
    built.bytes.resize(placed[i].begin, '\0');
    built.bytes += parts[i].bytes;
  }
  return built;
}

// ---- files --------------------------------------------------------------------------------------------------------

class TempFile {
 public:
  explicit TempFile(std::string_view content = "") {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() /
             ("tandem-test-" + std::to_string(getpid()) + "-" + std::to_string(count++)))
                .string();
    write(content);
  }
  TempFile(const TempFile&) = delete;
  TempFile& operator=(const TempFile&) = delete;
  ~TempFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }

  const std::string& path() const { return path_; }
  void write(std::string_view content) const {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(content.data(), static_cast<std::streamsize>(content.size()));
  }
  std::string read() const {
    std::ifstream file(path_, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }

 private:
  std::string path_;
};

inline std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
  return text;
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

}  // namespace fixture
