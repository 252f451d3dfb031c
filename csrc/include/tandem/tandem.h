/* libtandem: runs a language model from C, and from anything that can call C. C99; C++ users have tandem/tandem.hpp.
 *
 *   tandem_engine* engine = NULL;
 *   tandem_session* session = NULL;
 *   if (tandem_engine_open("model.litertlm", NULL, &engine) != TANDEM_OK) puts(tandem_last_error());
 *   tandem_session_create(engine, &session);
 *   tandem_session_prefill(session, ids, count);
 *   tandem_session_generate(session, NULL, on_token, NULL, NULL);
 *   tandem_session_close(session);
 *   tandem_engine_close(engine);
 *
 * Errors. Every function that can fail returns a tandem_status; tandem_last_error() explains the last failure of the
 * calling thread: what failed, where, and the remedy. Nothing here throws, exits or aborts, and nothing writes to the
 * process's streams but LiteRT itself, which has one line of greeting for stderr and no switch for it.
 *
 * Handles. A tandem_engine* or tandem_session* is a number, not an address. A handle that is null, closed, of the other
 * kind or made up gives TANDEM_BAD_HANDLE, and so does every handle in the child after fork(): LiteRT's threads do not
 * follow there. A session keeps what it needs of its engine alive, so they may be closed in any order.
 *
 * Threads. Every function may be called from every thread, and nothing is bound to the thread that made it. An engine
 * serves many threads at once: its sessions take turns for their steps, and steps that wait at the same time run as one
 * where they can, which gives more tokens per second and the same tokens. A session runs one call at a time: a second
 * call meanwhile, from another thread or from inside a callback, returns TANDEM_BUSY and changes nothing. Only
 * tandem_session_cancel() and tandem_session_close() may come at any time. A callback runs on the thread that called
 * tandem_session_generate(); it must return normally (no exception, no longjmp), and a thread inside a call must not be
 * ended by pthread_cancel().
 *
 * Ownership. Whatever is passed in is read before the call returns and stays the caller's. Whatever comes out is
 * written to the caller's memory, except the text of a tandem_token, which belongs to the library for as long as said
 * there.
 *
 * Structs begin with their size. Zero the struct and set `size`, `tandem_sampling sampling = {.size = sizeof
 * sampling};`: zero (or NULL) in any other field means its default. Later versions add fields at the end: programs keep
 * working with a newer library without being compiled again; an older library refuses a field that it does not know,
 * unless it is 0, and leaves fields at 0 that it cannot fill.
 *
 * Text is UTF-8. Lengths are in bytes and leave out the NUL that the library puts behind text it writes.
 */
#ifndef TANDEM_TANDEM_H
#define TANDEM_TANDEM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define TANDEM_API __attribute__((visibility("default")))
#else
#define TANDEM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- errors ---------------------------------------------------------------------------------------------------- */

typedef int32_t tandem_status;
enum {
  TANDEM_OK = 0,
  TANDEM_INVALID_REQUEST = 1,   /* an argument or option is wrong; the handle stays usable */
  TANDEM_BUNDLE = 2,            /* the bundle is missing, damaged or of an unknown version */
  TANDEM_CONTEXT_LENGTH = 3,    /* it does not fit the context; nothing was appended */
  TANDEM_OUT_OF_MEMORY = 4,     /* an allocation failed, or the plan does not fit the memory */
  TANDEM_BACKEND = 5,           /* LiteRT is missing, of an untested version, or reported a failure */
  TANDEM_CANCELLED = 6,         /* cancelled; the session keeps what was done */
  TANDEM_IO = 7,                /* a file could not be read or written */
  TANDEM_BUSY = 8,              /* the session runs another call */
  TANDEM_BAD_HANDLE = 9,        /* the handle is null, closed, of another kind, or from before fork() */
  TANDEM_BUFFER_TOO_SMALL = 10, /* nothing was written to the buffer; the size that it needs was */
  TANDEM_INTERNAL = 11,         /* a defect of the library, or an exception that left a callback */
  TANDEM_TIMED_OUT = 12         /* a time limit passed; the session keeps what was done */
};

/* "invalid request", ...; "unknown status" for other numbers. */
TANDEM_API const char* tandem_status_name(tandem_status status);

/* What the last call of this thread that failed had to say; "" before the first. Successful calls leave it. Valid until
 * the next failure in this thread or its end. */
TANDEM_API const char* tandem_last_error(void);

/* Of the library, such as "0.1.0". */
TANDEM_API const char* tandem_version(void);

/* ---- engine: one bundle, its weights loaded once ----------------------------------------------------------------- */

typedef struct tandem_engine tandem_engine;

typedef struct tandem_engine_options {
  size_t size;                /* sizeof(tandem_engine_options) */
  const char* litert_library; /* path of libLiteRt.so (ai-edge-litert 2.3). NULL: $TANDEM_LITERT_LIBRARY, else where the
                                 dynamic linker finds that name */
  const char* cache_dir;      /* folder for weights packed for this machine. NULL: $TANDEM_CACHE_DIR, else
                                 $XDG_CACHE_HOME/tandem or ~/.cache/tandem. "", or a folder that cannot be written: they
                                 stay in memory and are packed anew by every open */
  const char* kv_dtype;       /* "f16" (NULL), "f32" or "int8": how keys and values are stored */
  const char* graph;          /* "auto" (NULL): "fast" where the bundle has it; else "portable" */
  const char* drafter;        /* "auto" (NULL): speculative decoding where it pays; "on"; "off" */
  int64_t max_context;        /* tokens that a session can hold; 0: what the bundle was made for */
  int64_t num_threads;        /* 0: the physical cores that this process may use; at most 1024 */
  const char* backend;  /* "cpu" (NULL); "gpu", "gpu:NAME" for one whose name contains NAME; "auto": the GPU where a
                           hardware one agrees with the CPU. A broken GPU driver can end the process */
  const char* fallback; /* "none" (NULL); "cpu": where the GPU fails, at the start or later, the CPU goes on */
  uint64_t prefix_cache_bytes;  /* of memory for beginnings of sequences, such as a system prompt, that sessions share:
                                   one that begins as another did does not compute that again. The budget counts in the
                                   memory plan. 0: none are kept, or 2^30 with a folder */
  const char* prefix_cache_dir; /* folder where tandem_engine_close() writes them, within the same budget, for engines
                                   of the same bundle, kv_dtype and max_context; needs the fast graphs. The files hold
                                   the text of the prompts, only their owner may read them. NULL or "": memory alone */
  const char* gpu_library; /* path of LiteRT for the GPU: with liblitert-lm.so (litert-lm-api 0.18.1) weights lie there
                              once for all graphs, and may be in blocks. NULL: $TANDEM_GPU_LIBRARY, else what the CPU
                              runs by */
} tandem_engine_options;

/* Loads the bundle at `path`; the first time on a machine takes longer, since weights are packed. `options` may be
 * NULL: all defaults. `*engine` is set on success, NULL otherwise. INVALID_REQUEST, BUNDLE, OUT_OF_MEMORY (it would not
 * fit: the message says which context would), BACKEND, IO. */
TANDEM_API tandem_status tandem_engine_open(const char* path, const tandem_engine_options* options,
                                            tandem_engine** engine);

/* Ends the handle. The weights are freed when the engine's last session is closed too. Writes the prefix cache to its
 * folder, if it has one: IO when that fails, the handle is ended nevertheless. */
TANDEM_API tandem_status tandem_engine_close(tandem_engine* engine);

typedef struct tandem_engine_info {
  size_t size;           /* sizeof(tandem_engine_info); set it before the call */
  int64_t vocab_size;    /* token ids are 0 ... vocab_size - 1 */
  int64_t hidden_size;   /* */
  int64_t layers;        /* */
  int64_t max_context;   /* tokens that a session can hold */
  int64_t num_threads;   /* */
  uint64_t memory_bytes; /* as planned, with one session of max_context tokens */
  double load_seconds;   /* */
  int32_t bos_id;        /* -1: none */
  int32_t eos_id;        /* the first of them: the manifest has all; -1: none */
  int32_t pad_id;        /* -1: none */
  int32_t add_bos;       /* 1: a text of its own starts with the bos token */
  int32_t has_drafter;   /* 1: the bundle holds a drafter */
  int32_t warm_start;    /* 1: the packed weights came from the cache folder */
  int32_t takes_images;  /* 1: the model has eyes */
  int32_t takes_audio;   /* 1: the model has ears */
  int64_t step_rows;     /* tokens of sessions that wait at the same time, drafts included, which one step takes; 1:
                            sessions take turns */
} tandem_engine_info;

TANDEM_API tandem_status tandem_engine_get_info(tandem_engine* engine, tandem_engine_info* info);

enum {
  TANDEM_TEXT_FAMILY = 0,        /* "gemma4_unified", ... */
  TANDEM_TEXT_QUANTIZATION = 1,  /* the recipe of the conversion */
  TANDEM_TEXT_KV_DTYPE = 2,      /* of this engine's caches */
  TANDEM_TEXT_GRAPH = 3,         /* "fast" or "portable" */
  TANDEM_TEXT_CHAT_TEMPLATE = 4, /* Jinja2 source; empty for a model without one */
  TANDEM_TEXT_BUNDLE_HASH = 5,   /* 64 hexadecimal digits that identify the bundle */
  TANDEM_TEXT_MANIFEST = 6       /* all the bundle says of itself, as JSON */
};

/* Writes one of the texts above and a NUL to `buffer` of `capacity` bytes; `*bytes` is its length without the NUL.
 * BUFFER_TOO_SMALL when capacity <= *bytes. With a NULL buffer and capacity 0 it only tells the length. */
TANDEM_API tandem_status tandem_engine_get_text(tandem_engine* engine, int32_t which, char* buffer, size_t capacity,
                                                size_t* bytes);

/* ---- tokenizer --------------------------------------------------------------------------------------------------- */

enum {
  TANDEM_ADD_BOS = 1,       /* encode: put the bos token first */
  TANDEM_PARSE_SPECIAL = 2, /* encode: names of special tokens become their ids; else they are plain text */
  TANDEM_SKIP_SPECIAL = 4   /* decode: leave special tokens out */
};

/* Text to ids. `text` has `bytes` bytes (at most 2^30) and may hold NULs; what is not UTF-8 becomes U+FFFD. Writes
 * `*count` ids to `ids`, which has room for `capacity`. BUFFER_TOO_SMALL when capacity < *count. With NULL ids and
 * capacity 0 it only counts. */
TANDEM_API tandem_status tandem_encode(tandem_engine* engine, const char* text, size_t bytes, uint32_t flags,
                                       int32_t* ids, size_t capacity, size_t* count);

/* Ids to text, always valid UTF-8; ids outside the vocabulary are left out. The buffer as in tandem_engine_get_text. */
TANDEM_API tandem_status tandem_decode(tandem_engine* engine, const int32_t* ids, size_t count, uint32_t flags,
                                       char* buffer, size_t capacity, size_t* bytes);

/* ---- session: one sequence with its keys and values -------------------------------------------------------------- */

typedef struct tandem_session tandem_session;

/* A new, empty sequence. `*session` is set on success, NULL otherwise. */
TANDEM_API tandem_status tandem_session_create(tandem_engine* engine, tandem_session** session);

/* Ends the handle, and cancels the call that another thread may be running on it; memory is freed when that returns. */
TANDEM_API tandem_status tandem_session_close(tandem_session* session);

/* Number of tokens in the sequence. */
TANDEM_API tandem_status tandem_session_get_position(tandem_session* session, int64_t* position);

/* Appends `count` ids. CONTEXT_LENGTH and INVALID_REQUEST (an id outside the vocabulary) leave the session as it was;
 * CANCELLED and TIMED_OUT keep the part that was done (see the position). */
TANDEM_API tandem_status tandem_session_prefill(tandem_session* session, const int32_t* ids, size_t count);

/* Appends `count` ids and writes the logits that follow each of them, float32 [count, vocab_size] row by row, to
 * `logits`, which has room for `capacity` floats. BUFFER_TOO_SMALL when that is less; else as tandem_session_prefill.
 */
TANDEM_API tandem_status tandem_session_logits(tandem_session* session, const int32_t* ids, size_t count, float* logits,
                                               size_t capacity);

/* The ids of the sequence, what restored sessions and sliding ones (tandem_sampling.slide) hold included; an image or
 * sound is as many times the id that stands for it as it has soft tokens. The buffer as in tandem_encode(). */
TANDEM_API tandem_status tandem_session_get_tokens(tandem_session* session, int32_t* ids, size_t capacity,
                                                   size_t* count);

/* Seconds (wall clock) that each later tandem_session_prefill(), _prefill_image() and _prefill_audio() may take,
 * reading the image or sound included; 0: no limit, as in a new, cloned or restored session. After that time, and the
 * step that runs then, they return TANDEM_TIMED_OUT and keep the part that was done (see the position). A generation
 * has a limit of its own: tandem_sampling.timeout_seconds. */
TANDEM_API tandem_status tandem_session_set_prefill_timeout(tandem_session* session, double seconds);

/* Forgets everything from `position` on; 0 <= position <= the session's position. Sliding layers keep their window and
 * about 512 tokens more: further back, the next call computes what is left of the sequence again from its beginning. */
TANDEM_API tandem_status tandem_session_rewind(tandem_session* session, int64_t position);

/* The same, but never at the cost of computing anything again: INVALID_REQUEST where that would be needed. The session
 * is as it was then, and tandem_last_error() names the least position that needs none. */
TANDEM_API tandem_status tandem_session_rewind_no_refill(tandem_session* session, int64_t position);

/* An independent session with the same sequence; its statistics begin anew. Keys and values are shared until one of the
 * two writes, page by page, so that this takes microseconds and little memory at any length (the portable graphs copy).
 * `*clone` is set on success, NULL otherwise. OUT_OF_MEMORY as tandem_session_create(). */
TANDEM_API tandem_status tandem_session_clone(tandem_session* session, tandem_session** clone);

/* Writes the sequence, images and sound included, with its keys and values to a file for tandem_session_restore(), in
 * this process or another. It appears as a whole or not at all, and only its owner may read it: it contains the
 * conversation. How tokens are chosen is no part of it. What a far rewind left to be computed is computed first:
 * CANCELLED ends that. IO: it cannot be written. INVALID_REQUEST on the portable graphs. */
TANDEM_API tandem_status tandem_session_save(tandem_session* session, const char* path);

/* A session from such a file, as if it had never slept: the file is checked, then mapped. It may be moved or deleted
 * meanwhile, but must not be changed in place. `*session` is set on success, NULL otherwise. INVALID_REQUEST: it is of
 * another bundle, kv_dtype or max_context, or the engine runs the portable graphs; IO: it is missing, damaged, cut
 * short or of another version; CONTEXT_LENGTH: it is longer than the context; OUT_OF_MEMORY as tandem_session_create().
 */
TANDEM_API tandem_status tandem_session_restore(tandem_engine* engine, const char* path, tandem_session** session);

/* Stops the call that runs on the session at its next step: a prefill returns TANDEM_CANCELLED, a generation ends with
 * TANDEM_FINISH_CANCELLED. Without a running call it ends the generation that was begun; a later call is not affected.
 */
TANDEM_API tandem_status tandem_session_cancel(tandem_session* session);

/* ---- images and sound -------------------------------------------------------------------------------------------- */

/* Decoded pixels. The library resizes them to the model's patches, up or down. */
typedef struct tandem_image {
  size_t size;        /* sizeof(tandem_image) */
  const uint8_t* rgb; /* [height, width, 3]: R, G, B, from the top left, upright (apply an EXIF orientation first) */
  int64_t width;      /* pixels: 1 to 65536 ... */
  int64_t height;     /* ... and width * height at most 2^27 */
  int64_t row_stride; /* bytes from row to row; 0: 3 * width */
  int32_t max_soft_tokens; /* the most tokens that it may take: 70, 140, 280, 560 or 1120; 0: the model's choice, 280,
                              of a video frame 70 */
  int32_t video_frame;     /* 1: it is a frame of a video */
} tandem_image;

/* Decoded sound. The library mixes the channels and resamples to 16 kHz. */
typedef struct tandem_audio {
  size_t size;          /* sizeof(tandem_audio) */
  const float* samples; /* [frames, channels], interleaved; full scale is 1.0 */
  int64_t frames;       /* samples per channel; at most 3 hours */
  int32_t channels;     /* 1 to 8 */
  int32_t sample_rate;  /* Hz, 8000 to 192000 */
} tandem_audio;

/* Append an image or sound as the model expects it: its begin marker, its soft tokens (embeddings that each take the
 * place of a token: 25 per second of sound), its end marker. `*soft_tokens` (may be NULL) is their number; the position
 * grows by two more. What an engine has seen or heard lately it remembers by content: the same pixels or samples, in
 * any session, are not computed again. Images see themselves as a whole, so rewinding into one is INVALID_REQUEST, as
 * are pixels, samples or a model without such input; CONTEXT_LENGTH leaves the session as it was.
 *
 * The models expect images before the text of a turn and sound after it, and a video as frames sampled evenly,
 * each behind its time as text, "00:12 " and from the second frame on " 00:13 ", then its sound. */
TANDEM_API tandem_status tandem_session_prefill_image(tandem_session* session, const tandem_image* image,
                                                      int64_t* soft_tokens);
TANDEM_API tandem_status tandem_session_prefill_audio(tandem_session* session, const tandem_audio* audio,
                                                      int64_t* soft_tokens);

/* The embeddings alone, float32 [*rows, hidden_size] row by row, to `embeddings`, which has room for `capacity` floats.
 * BUFFER_TOO_SMALL when that is less. With NULL embeddings and capacity 0 it only tells the rows; the call that follows
 * finds them remembered. */
TANDEM_API tandem_status tandem_embed_image(tandem_engine* engine, const tandem_image* image, float* embeddings,
                                            size_t capacity, int64_t* rows);
TANDEM_API tandem_status tandem_embed_audio(tandem_engine* engine, const tandem_audio* audio, float* embeddings,
                                            size_t capacity, int64_t* rows);

/* ---- generation -------------------------------------------------------------------------------------------------- */

/* How the next token is chosen and when to stop. All zero: greedy, up to 256 tokens. Order of the steps: suppress,
 * penalties, temperature, top_k, top_p, min_p, draw. */
typedef struct tandem_sampling {
  size_t size;                     /* sizeof(tandem_sampling) */
  float temperature;               /* 0: always the most likely token */
  float top_p;                     /* keep the smallest set of tokens with this probability; 0 or 1: keep all */
  float min_p;                     /* drop what is less likely than min_p times the most likely token */
  float repetition_penalty;        /* of tokens in prompt or text, as divisor of their logits; 0 or 1: off */
  float presence_penalty;          /* taken off the logits of generated tokens, once */
  float frequency_penalty;         /* taken off per occurrence */
  int32_t top_k;                   /* keep the k most likely tokens; 0: keep all */
  int32_t logprobs;                /* 1: fill tandem_token.logprob */
  int64_t max_tokens;              /* 0: 256 */
  uint64_t seed;                   /* equal seeds give equal tokens; 0 is a seed like any other */
  const int32_t* stop_ids;         /* tokens that end it. NULL: the model's own end tokens; not NULL with a count of 0:
                                      none */
  size_t num_stop_ids;             /* */
  const char* const* stop_strings; /* it ends before the first of these, which is not part of the text */
  size_t num_stop_strings;         /* */
  const int32_t* suppress_ids;     /* never generated, in addition to the model's own */
  size_t num_suppress_ids;         /* */
  const char* drafter;             /* "auto" (NULL): as the engine was opened; "on"; "off" */
  int64_t draft_tokens;            /* drafted per round, at most 15; 0: as many as pay */
  double timeout_seconds;          /* from the call on; the generation ends at the first step after it; 0: none */
  int64_t pinned_tokens;           /* with slide: how many tokens at the beginning are never dropped */
  int32_t slide;                   /* 1: in a full context the pinned tokens and the newest half of the rest stay, are
                                      computed again where they moved, and the generation goes on; 0: it ends */
} tandem_sampling;

typedef int32_t tandem_finish;
enum {
  TANDEM_FINISH_NONE = 0,      /* more tokens follow */
  TANDEM_FINISH_STOP = 1,      /* an end token or a stop string */
  TANDEM_FINISH_LENGTH = 2,    /* max_tokens */
  TANDEM_FINISH_CONTEXT = 3,   /* the context is full */
  TANDEM_FINISH_CANCELLED = 4, /* by tandem_session_cancel(), the callback, or tandem_session_close() */
  TANDEM_FINISH_TIMEOUT = 5    /* timeout_seconds passed */
};

typedef struct tandem_token {
  size_t size;          /* sizeof(tandem_token) */
  int32_t id;           /* -1: no token, the generation has ended */
  tandem_finish finish; /* not NONE on the last one */
  float logprob;        /* natural logarithm of its probability; NaN unless asked for */
  int32_t from_draft;   /* 1: it came from speculative decoding */
  const char* text;     /* the text that became final with it, NUL-terminated, whole characters; often "". Never NULL.
                           Given to a callback: valid until that returns. Given by tandem_session_step: until the
                           session's next call or close */
  size_t text_bytes;    /* its length without the NUL */
} tandem_token;

/* 0 goes on; anything else ends the generation after this token, which stays in the sequence. */
typedef int (*tandem_token_callback)(const tandem_token* token, void* user_data);

/* Continues the sequence and calls `callback` (or not, when NULL) with every token. `sampling` may be NULL: greedy.
 * `*finish` (may be NULL) says why it ended. A session must hold a token to go on from: INVALID_REQUEST otherwise.
 * After an error the session holds every token that the callback got. */
TANDEM_API tandem_status tandem_session_generate(tandem_session* session, const tandem_sampling* sampling,
                                                 tandem_token_callback callback, void* user_data,
                                                 tandem_finish* finish);

/* The same, one token at a time: begin once, then step until token->finish is not NONE. Every call on the session but
 * step, cancel and those that only read ends a generation that was begun; its tokens stay. */
TANDEM_API tandem_status tandem_session_begin(tandem_session* session, const tandem_sampling* sampling);

/* The next token of the generation that was begun; INVALID_REQUEST when there is none. `token->size` must be set. At
 * the end, and after it, the id is -1 where there was no token left to give. */
TANDEM_API tandem_status tandem_session_step(tandem_session* session, tandem_token* token);

/* ---- statistics -------------------------------------------------------------------------------------------------- */

#define TANDEM_MAX_DRAFT_TOKENS 15

/* Seconds are wall clock. */
typedef struct tandem_stats {
  size_t size;                                               /* sizeof(tandem_stats); set it before the call */
  int64_t prefill_tokens;                                    /* */
  int64_t decode_tokens;                                     /* */
  double prefill_seconds;                                    /* */
  double decode_seconds;                                     /* model and sampling */
  double sample_seconds;                                     /* of them, choosing tokens */
  double time_to_first_token;                                /* of the newest generation, from its first step */
  int64_t verify_steps;                                      /* steps of the model that checked drafts */
  int64_t drafted;                                           /* tokens proposed by a drafter */
  int64_t accepted;                                          /* of them, those that became tokens of the text */
  double draft_seconds;                                      /* of decode_seconds: making drafts ... */
  double verify_seconds;                                     /* ... and the steps that checked them */
  int64_t accepted_by_position[TANDEM_MAX_DRAFT_TOKENS + 1]; /* [i]: accepted when drafted as number i of its round */
  int64_t depths[TANDEM_MAX_DRAFT_TOKENS + 1];               /* [i]: steps with i drafts */
  int64_t media_embedded;                                    /* images and sounds that were computed; engines only */
  int64_t media_reused;                                      /* and those that were remembered */
  int64_t reused_tokens;                                     /* of prompts, which the prefix cache had */
  int64_t steps;     /* of the model that gave logits; engines only: sessions that wait at the same time share one */
  int64_t step_rows; /* tokens of these steps together, drafts included; engines only */
} tandem_stats;

/* Since the session was created. */
TANDEM_API tandem_status tandem_session_get_stats(tandem_session* session, tandem_stats* stats);

/* Of all sessions of the engine together, those that are closed included. */
TANDEM_API tandem_status tandem_engine_get_stats(tandem_engine* engine, tandem_stats* stats);

/* What the prefix cache has been asked for, and what it holds. */
typedef struct tandem_prefix_stats {
  size_t size;           /* sizeof(tandem_prefix_stats); set it before the call */
  int64_t lookups;       /* sequences that began from nothing */
  int64_t hits;          /* of them, those that found something */
  int64_t disk_hits;     /* of the hits, those that were read from a file */
  int64_t tokens_asked;  /* of all lookups */
  int64_t tokens_reused; /* of all hits */
  int64_t entries;       /* prefixes in memory */
  int64_t evictions;     /* prefixes given up for want of room */
  int64_t disk_entries;  /* prefixes in files, as far as known */
  uint64_t bytes;        /* in memory */
  uint64_t disk_bytes;   /* in files */
  uint64_t budget;       /* most bytes in memory, and most in files */
} tandem_prefix_stats;

/* All 0 for an engine that keeps none. */
TANDEM_API tandem_status tandem_engine_get_prefix_stats(tandem_engine* engine, tandem_prefix_stats* stats);

#ifdef __cplusplus
}
#endif

#endif /* TANDEM_TANDEM_H */
