// A sketch that runs the model in TensorFlow Lite Micro (tflite-micro). model.cc and example.h were compiled where this was
// made, this file was not: its headers are not to be had there.
#include "model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

alignas(16) static uint8_t arena[kArenaBytes];

// The place of the likeliest label, or -1. `input` is prepared as preprocessing.json says, then
// round(value / kInputScale) + kInputZero, cut off at -128 and 127.
int Classify(const int8_t* input) {
  static tflite::MicroMutableOpResolver<$count> operators;
  static const bool ready = [] {
    $operators
    return true;
  }();
  static tflite::MicroInterpreter interpreter(tflite::GetModel(g_model), operators, arena, kArenaBytes);
  static const bool allocated = ready && interpreter.AllocateTensors() == kTfLiteOk;
  if (!allocated) return -1;
  for (int i = 0; i < kInputSize; ++i) interpreter.input(0)->data.int8[i] = input[i];
  if (interpreter.Invoke() != kTfLiteOk) return -1;
  const int8_t* scores = interpreter.output(0)->data.int8;
  int best = 0;
  for (int i = 1; i < kOutputSize; ++i) if (scores[i] > scores[best]) best = i;
  return best;
}
