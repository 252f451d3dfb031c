// inspect: the JSON text says what the bundle holds.
#include <string>

#include "base/json.h"
#include "bundle/inspect.h"
#include "bundle_fixture.h"
#include "check.h"

TEST(describes_the_bundle) {
  const fixture::Built built = fixture::build();
  const fixture::TempFile file(built.bytes);
  const auto bundle = tandem::Bundle::open(file.path());
  CHECK(bundle.ok());
  const auto parsed = tandem::Json::parse(tandem::inspect(bundle.value()));
  if (!parsed.ok()) return check::fail(__FILE__, __LINE__, parsed.status().message());
  const tandem::Json& json = parsed.value();
  CHECK_EQ(*json.find("path")->text(), file.path());
  CHECK_EQ(*json.find("hash")->text(), bundle.value().hash());
  CHECK_EQ(*json.find("container")->find("version")->text(), "1.7.0");
  const auto& sections = *json.find("sections")->array();
  CHECK_EQ(sections.size(), 5u);
  const tandem::Json& model = sections[2];
  CHECK_EQ(*model.find("name")->text(), "tf_lite_prefill_decode");
  CHECK_EQ(*model.find("type")->text(), "tf_lite_model");
  CHECK_EQ(*model.find("offset")->integer(), static_cast<int64_t>(built.sections[2].begin));
  CHECK_EQ(*model.find("bytes")->integer(), 4160);
  CHECK_EQ(*model.find("items")->find("model_type")->text(), "TF_lite_prefill_decode");
  const tandem::Json& totals = *json.find("totals");
  CHECK_EQ(*totals.find("file")->integer(), static_cast<int64_t>(built.bytes.size()));
  CHECK_EQ(*totals.find("file")->integer(),
           16384 + *totals.find("sections")->integer() + *totals.find("padding")->integer());
  const auto manifest = tandem::Json::parse(bundle.value().manifest_text());
  CHECK_EQ(json.find("manifest")->write(), manifest.value().write());
}
