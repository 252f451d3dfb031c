#include <pybind11/numpy.h>

#include "bindings/module.h"
#include "media/audio.h"
#include "media/image.h"
#include "media/limits.h"

namespace py = pybind11;

namespace tandem::bindings {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

// A numpy array that owns `values`, without a copy.
template <class T>
py::array_t<T> array_of(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
  auto* held = new std::vector<T>(std::move(values));
  const py::capsule owner(held, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  return py::array_t<T>(std::move(shape), held->data(), owner);
}
py::array_t<float> array_of(std::vector<float>&& values) {
  const auto size = static_cast<py::ssize_t>(values.size());
  return array_of(std::move(values), {size});
}

// [n] is mono; [n, channels] is interleaved.
int channels_of(const Floats& samples) {
  if (samples.ndim() == 1) return 1;
  if (samples.ndim() != 2 || samples.shape(1) < 1 || samples.shape(1) > kMaxAudioChannels) {
    raise({Code::kInvalidRequest, "audio must be [samples] or [samples, channels] with at most " +
                                      std::to_string(kMaxAudioChannels) + " channels"});
  }
  return static_cast<int>(samples.shape(1));
}
std::span<const float> span_of(const Floats& samples) { return {samples.data(), static_cast<size_t>(samples.size())}; }

}  // namespace

void init_media(py::module_& module) {
  py::dict limits;
  limits["max_image_side"] = kMaxImageSide;
  limits["max_image_pixels"] = kMaxImagePixels;
  limits["max_video_pixels"] = kMaxVideoPixels;
  limits["max_video_frames"] = kMaxVideoFrames;
  limits["min_sample_rate"] = kMinSampleRate;
  limits["max_sample_rate"] = kMaxSampleRate;
  limits["max_audio_channels"] = kMaxAudioChannels;
  limits["max_audio_seconds"] = kMaxAudioSeconds;
  module.attr("media_limits") = limits;

  module.def(
      "budgeted_size",
      [](int64_t width, int64_t height, int max_soft_tokens, int patch) {
        const ImageSize size = take(budgeted_size(width, height, max_soft_tokens, patch));
        return py::make_tuple(size.width, size.height);
      },
      py::arg("width"), py::arg("height"), py::arg("max_soft_tokens"), py::arg("patch") = kImagePatch);
  module.def(
      "prepare_image",
      [](const py::array_t<uint8_t, 0>& rgb, int max_soft_tokens, bool video, int patch) {
        if (rgb.ndim() != 3 || rgb.shape(2) != 3 || rgb.strides(2) != 1 || rgb.strides(1) != 3 || rgb.strides(0) < 0) {
          raise({Code::kInvalidRequest, "an image must be uint8 [height, width, 3] with packed rows"});
        }
        const auto scale = video ? PixelScale::kVideoFrame : PixelScale::kImage;
        ImageInput input;
        {
          const py::gil_scoped_release nogil;
          input = take(
              prepare_image(rgb.data(), rgb.shape(1), rgb.shape(0), rgb.strides(0), max_soft_tokens, scale, patch));
        }
        const py::ssize_t count = input.count, values = py::ssize_t{3} * patch * patch;
        return py::make_tuple(array_of(std::move(input.patches), {count, values}),
                              array_of(std::move(input.positions), {count, 2}),
                              py::make_tuple(input.width, input.height));
      },
      py::arg("rgb").noconvert(), py::arg("max_soft_tokens"), py::arg("video") = false, py::arg("patch") = kImagePatch);

  py::class_<AudioConverter>(module, "AudioConverter")
      .def(py::init([](int channels, int sample_rate) {
             const py::gil_scoped_release nogil;
             return take(AudioConverter::create(channels, sample_rate));
           }),
           py::arg("channels"), py::arg("sample_rate"))
      .def(
          "push",
          [](AudioConverter& converter, const Floats& interleaved) {
            std::vector<float> mono;
            {
              const py::gil_scoped_release nogil;
              check(converter.push(span_of(interleaved), mono));
            }
            return array_of(std::move(mono));
          },
          py::arg("interleaved"))
      .def("finish", [](AudioConverter& converter) {
        std::vector<float> mono;
        check(converter.finish(mono));
        return array_of(std::move(mono));
      });
  module.def(
      "to_mono_16k",
      [](const Floats& samples, int sample_rate) {
        const int channels = channels_of(samples);
        std::vector<float> mono;
        {
          const py::gil_scoped_release nogil;
          mono = take(to_mono_16k(span_of(samples), channels, sample_rate));
        }
        return array_of(std::move(mono));
      },
      py::arg("samples"), py::arg("sample_rate"));
  module.def(
      "frame_audio",
      [](const Floats& mono16k, int frame) {
        if (mono16k.ndim() != 1) raise({Code::kInvalidRequest, "mono audio must be [samples]"});
        AudioFrames result;
        {
          const py::gil_scoped_release nogil;
          result = take(frame_audio(span_of(mono16k), frame));
        }
        return array_of(std::move(result.frames), {result.count, frame});
      },
      py::arg("mono16k"), py::arg("frame") = kAudioFrame);
}

}  // namespace tandem::bindings
