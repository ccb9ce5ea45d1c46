// Structures that the kernels share with crates/device/src/cuda/arguments.rs, where their fields are explained. A test
// compiles an assertion for the size of each and the offset of every field. No headers: NVRTC alone is enough.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef float f32;

struct ImageSource {
    u64 offset;
    u64 chroma_offset;
    u64 chroma_offset_second;
    u32 width;
    u32 height;
    u32 stride;
    u32 chroma_stride;
    u32 format;
    u32 matrix;
    u32 fitted_width;
    u32 fitted_height;
    u32 slot;
    u32 reserved;
};

struct PrepareStep {
    u32 width;
    u32 height;
    u32 layout;
    u32 channels;
    f32 mean[3];
    f32 scale[3];
};

struct DflLevel {
    u32 stride;
    u32 columns;
    u32 cells;
    u32 first;
};

struct DflStep {
    DflLevel levels[8];
    u32 level_count;
    u32 classes;
    u32 bins;
    u32 candidates;
    f32 score_min;
    u32 reserved;
};

struct DflOutputs {
    u64 scores[8];
    u64 distances[8];
};

struct RowsStep {
    u32 rows;
    u32 classes;
    f32 score_min;
    u32 reserved;
};

struct SelectStep {
    u32 candidates;
    u32 detections_max;
    f32 iou_max;
    u32 reserved;
};

struct Geometry {
    u32 width;
    u32 height;
    u32 fitted_width;
    u32 fitted_height;
};

struct Outcome {
    u32 count;
    u32 candidates;
    u32 bad_row;
    u32 reserved;
};

struct Found {
    f32 bbox[4];
    f32 score;
    u32 class_index;
};

struct SoundSource {
    u64 offset;
    u32 frames;
    u32 first_row;
};

struct LogMelStep {
    u32 window;
    u32 hop;
    u32 bands;
    u32 taps;
    f32 log_offset;
    u32 reserved;
};
