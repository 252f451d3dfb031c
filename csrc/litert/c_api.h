// Own declarations of the part of the LiteRT C API that Tandem uses, as exported by libLiteRt.so of ai-edge-litert 2.3
// (LiteRT's litert/c/*.h). Layouts are checked below: a library with another layout would corrupt memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem::litert {

using RtStatus = int;  // kRtOk or an error number
using ParamIndex = std::size_t;

inline constexpr RtStatus kRtOk = 0;
inline constexpr RtStatus kRtRuntimeFailure = 3;
inline constexpr RtStatus kRtCancelled = 100;
inline constexpr RtStatus kRtCompilation = 504;
inline constexpr int kAcceleratorCpu = 1;
inline constexpr int kAcceleratorGpu = 2;
inline constexpr int kMaxRank = 8;
inline constexpr int kLockRead = 0;
inline constexpr int kLockWrite = 1;

// Element types (LiteRtElementType).
inline constexpr int32_t kFloat32 = 1;
inline constexpr int32_t kInt32 = 2;
inline constexpr int32_t kBool = 6;

// Environment option tags.
inline constexpr int32_t kOptionRuntimeLibraryDir = 22;         // folder of the accelerators' libraries
inline constexpr int32_t kOptionAutoRegisterAccelerators = 24;  // bit mask; CPU alone probes no GPU and warns of none
inline constexpr int32_t kOptionMinLoggerSeverity = 25;
inline constexpr int64_t kLogSilent = 4;

// Type tags of RtAny.
inline constexpr int32_t kAnyInt = 2;
inline constexpr int32_t kAnyString = 8;

struct RtLayout {
  unsigned rank : 7, has_strides : 1;
  int32_t dimensions[kMaxRank];
  uint32_t strides[kMaxRank];
};
struct RtRankedTensorType {
  int32_t element_type;
  RtLayout layout;
};
struct RtAny {
  int32_t type;
  union {
    bool as_bool;
    int64_t as_int;
    double as_real;
    const char* as_string;
    const void* as_pointer;
  };
};
struct RtEnvOption {
  int32_t tag;
  RtAny value;
};

// Opaque handles.
struct RtEnvironmentT;
struct RtModelT;
struct RtSignatureT;
struct RtTensorT;
struct RtOptionsT;
struct RtOpaqueOptionsT;
struct RtCompiledModelT;
struct RtTensorBufferT;
struct RtAcceleratorT;
struct RtTensorBufferRequirementsT;
using RtEnvironment = RtEnvironmentT*;
using RtModel = RtModelT*;
using RtSignature = RtSignatureT*;
using RtTensor = RtTensorT*;
using RtOptions = RtOptionsT*;
using RtOpaqueOptions = RtOpaqueOptionsT*;
using RtCompiledModel = RtCompiledModelT*;
using RtTensorBuffer = RtTensorBufferT*;
using RtAccelerator = RtAcceleratorT*;
using RtTensorBufferRequirements = RtTensorBufferRequirementsT*;

// A custom operator: `user` is one pointer for all nodes of the model, so a node's identity must come in as a tensor.
struct RtCustomOpKernel {
  RtStatus (*init)(void* user, const void* custom_options, std::size_t size);
  RtStatus (*output_layouts)(void* user, std::size_t num_inputs, const RtLayout* inputs, std::size_t num_outputs,
                             RtLayout* outputs);
  RtStatus (*run)(void* user, std::size_t num_inputs, const RtTensorBuffer* inputs, std::size_t num_outputs,
                  RtTensorBuffer* outputs);
  RtStatus (*destroy)(void* user);
};

static_assert(sizeof(RtCustomOpKernel) == 32);
static_assert(sizeof(RtLayout) == 68 && offsetof(RtLayout, dimensions) == 4 && offsetof(RtLayout, strides) == 36);
static_assert(sizeof(RtRankedTensorType) == 72 && offsetof(RtRankedTensorType, layout) == 4);
static_assert(sizeof(RtAny) == 16 && offsetof(RtAny, as_int) == 8);
static_assert(sizeof(RtEnvOption) == 24 && offsetof(RtEnvOption, value) == 8);

// Every function that is used: name without the LiteRt prefix, return type, arguments. Loaded by name in library.cc.
#define TANDEM_LITERT_FUNCTIONS(F)                                                                    \
  F(CreateEnvironment, RtStatus, (int, const RtEnvOption*, RtEnvironment*))                           \
  F(DestroyEnvironment, void, (RtEnvironment))                                                        \
  F(CreateModelFromFd, RtStatus, (RtEnvironment, int, std::size_t, std::size_t, RtModel*))            \
  F(DestroyModel, void, (RtModel))                                                                    \
  F(GetNumModelSignatures, RtStatus, (RtModel, ParamIndex*))                                          \
  F(GetModelSignature, RtStatus, (RtModel, ParamIndex, RtSignature*))                                 \
  F(GetSignatureKey, RtStatus, (RtSignature, const char**))                                           \
  F(GetNumSignatureInputs, RtStatus, (RtSignature, ParamIndex*))                                      \
  F(GetNumSignatureOutputs, RtStatus, (RtSignature, ParamIndex*))                                     \
  F(GetSignatureInputName, RtStatus, (RtSignature, ParamIndex, const char**))                         \
  F(GetSignatureOutputName, RtStatus, (RtSignature, ParamIndex, const char**))                        \
  F(GetSignatureInputTensorByIndex, RtStatus, (RtSignature, ParamIndex, RtTensor*))                   \
  F(GetSignatureOutputTensorByIndex, RtStatus, (RtSignature, ParamIndex, RtTensor*))                  \
  F(GetRankedTensorType, RtStatus, (RtTensor, RtRankedTensorType*))                                   \
  F(CreateOptions, RtStatus, (RtOptions*))                                                            \
  F(DestroyOptions, void, (RtOptions))                                                                \
  F(SetOptionsHardwareAccelerators, RtStatus, (RtOptions, int))                                       \
  F(CreateOpaqueOptions, RtStatus, (const char*, void*, void (*)(void*), RtOpaqueOptions*))           \
  F(AddOpaqueOptions, RtStatus, (RtOptions, RtOpaqueOptions))                                         \
  F(AddCustomOpKernelOption, RtStatus, (RtOptions, const char*, int, const RtCustomOpKernel*, void*)) \
  F(CreateCompiledModel, RtStatus, (RtEnvironment, RtModel, RtOptions, RtCompiledModel*))             \
  F(DestroyCompiledModel, void, (RtCompiledModel))                                                    \
  F(RunCompiledModel, RtStatus,                                                                       \
    (RtCompiledModel, ParamIndex, std::size_t, RtTensorBuffer*, std::size_t, RtTensorBuffer*))        \
  F(CompiledModelGetErrorMessages, RtStatus, (RtCompiledModel, char**))                               \
  F(CompiledModelClearErrors, RtStatus, (RtCompiledModel))                                            \
  F(CreateTensorBufferFromHostMemory, RtStatus,                                                       \
    (const RtRankedTensorType*, void*, std::size_t, void (*)(void*), RtTensorBuffer*))                \
  F(GetNumAccelerators, RtStatus, (RtEnvironment, ParamIndex*))                                       \
  F(GetAccelerator, RtStatus, (RtEnvironment, ParamIndex, RtAccelerator*))                            \
  F(GetAcceleratorName, RtStatus, (RtAccelerator, const char**))                                      \
  F(CompiledModelIsNonCpuFullyAccelerated, RtStatus, (RtCompiledModel, bool*))                        \
  F(GetCompiledModelInputBufferRequirements, RtStatus,                                                \
    (RtCompiledModel, ParamIndex, ParamIndex, RtTensorBufferRequirements*))                           \
  F(GetCompiledModelOutputBufferRequirements, RtStatus,                                               \
    (RtCompiledModel, ParamIndex, ParamIndex, RtTensorBufferRequirements*))                           \
  F(CreateManagedTensorBufferFromRequirements, RtStatus,                                              \
    (RtEnvironment, const RtRankedTensorType*, RtTensorBufferRequirements, RtTensorBuffer*))          \
  F(GetTensorBufferType, RtStatus, (RtTensorBuffer, int*))                                            \
  F(GetTensorBufferPackedSize, RtStatus, (RtTensorBuffer, std::size_t*))                              \
  F(LockTensorBuffer, RtStatus, (RtTensorBuffer, void**, int))                                        \
  F(UnlockTensorBuffer, RtStatus, (RtTensorBuffer))                                                   \
  F(DestroyTensorBuffer, void, (RtTensorBuffer))

}  // namespace tandem::litert
