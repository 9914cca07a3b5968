// The manifest of a checkpoint from any bytes.
#include "core/check.h"
#include "core/manifest.h"
#include "fuzz/fuzz.h"

using namespace flashlun;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Manifest manifest;
  if (!DecodeManifest({data, size}, &manifest)) return 0;
  for (const ManifestVolume& volume : manifest.volumes) Instantiate(volume);
  Manifest again;
  FL_CHECK(DecodeManifest(EncodeManifest(manifest), &again));
  FL_CHECK(again.volumes.size() == manifest.volumes.size());
  FL_CHECK(again.relations.size() == manifest.relations.size());
  FL_CHECK(EncodeManifest(again) == EncodeManifest(manifest));
  return 0;
}
