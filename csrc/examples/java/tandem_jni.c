/* The native half of org.tandemlm.Tandem: each function turns Java's arguments into those of one call of tandem.h, and
 * a status that is not TANDEM_OK into a TandemException. */
#include <jni.h>
#include <stdint.h>
#include <string.h>
#include <tandem/tandem.h>

#define NATIVE(name) JNIEXPORT JNICALL Java_org_tandemlm_Tandem_##name

static tandem_engine* engine_of(jlong handle) { return (tandem_engine*)(uintptr_t)handle; }
static tandem_session* session_of(jlong handle) { return (tandem_session*)(uintptr_t)handle; }

static jbyteArray bytes_of(JNIEnv* env, const char* text, size_t count) {
  jbyteArray array = (*env)->NewByteArray(env, (jsize)count);
  if (array != NULL) (*env)->SetByteArrayRegion(env, array, 0, (jsize)count, (const jbyte*)text);
  return array;
}

/* Leaves an exception pending when the call failed, unless there is one already (a callback's). */
static void check(JNIEnv* env, tandem_status status) {
  if (status == TANDEM_OK || (*env)->ExceptionCheck(env)) return;
  const char* message = tandem_last_error();
  jclass kind = (*env)->FindClass(env, "org/tandemlm/Tandem$TandemException");
  if (kind == NULL) return;
  jmethodID make = (*env)->GetMethodID(env, kind, "<init>", "(I[B)V");
  jbyteArray text = make != NULL ? bytes_of(env, message, strlen(message)) : NULL;
  jobject error = text != NULL ? (*env)->NewObject(env, kind, make, (jint)status, text) : NULL;
  if (error != NULL) (*env)->Throw(env, (jthrowable)error);
}

/* Bytes that end with a NUL, borrowed from Java; NULL for null. */
static char* borrow(JNIEnv* env, jbyteArray array) {
  return array != NULL ? (char*)(*env)->GetByteArrayElements(env, array, NULL) : NULL;
}

static void give_back(JNIEnv* env, jbyteArray array, char* bytes) {
  if (bytes != NULL) (*env)->ReleaseByteArrayElements(env, array, (jbyte*)bytes, JNI_ABORT);
}

jlong NATIVE(open)(JNIEnv* env, jclass self, jbyteArray bundle, jbyteArray library, jbyteArray cache) {
  (void)self;
  tandem_engine_options options = {.size = sizeof options};
  char* path = borrow(env, bundle);
  char* litert = borrow(env, library);
  char* folder = borrow(env, cache);
  options.litert_library = litert;
  options.cache_dir = folder;
  tandem_engine* engine = NULL;
  check(env, tandem_engine_open(path, &options, &engine));
  give_back(env, cache, folder);
  give_back(env, library, litert);
  give_back(env, bundle, path);
  return (jlong)(uintptr_t)engine;
}

jlong NATIVE(createSession)(JNIEnv* env, jclass self, jlong engine) {
  (void)self;
  tandem_session* session = NULL;
  check(env, tandem_session_create(engine_of(engine), &session));
  return (jlong)(uintptr_t)session;
}

jintArray NATIVE(encode)(JNIEnv* env, jclass self, jlong engine, jbyteArray text, jboolean bos, jboolean special) {
  (void)self;
  const uint32_t flags = (bos ? TANDEM_ADD_BOS : 0) | (special ? TANDEM_PARSE_SPECIAL : 0);
  char* bytes = borrow(env, text);
  const size_t length = bytes != NULL ? (size_t)(*env)->GetArrayLength(env, text) - 1 : 0; /* without the NUL */
  size_t count = 0;
  tandem_status status = tandem_encode(engine_of(engine), bytes, length, flags, NULL, 0, &count); /* only counts */
  jintArray array = status == TANDEM_OK ? (*env)->NewIntArray(env, (jsize)count) : NULL;
  jint* ids = array != NULL ? (*env)->GetIntArrayElements(env, array, NULL) : NULL;
  if (ids != NULL) {
    status = tandem_encode(engine_of(engine), bytes, length, flags, (int32_t*)ids, count, &count);
    (*env)->ReleaseIntArrayElements(env, array, ids, 0);
  }
  give_back(env, text, bytes);
  check(env, status);
  return array;
}

void NATIVE(prefill)(JNIEnv* env, jclass self, jlong session, jintArray ids) {
  (void)self;
  const jsize count = ids != NULL ? (*env)->GetArrayLength(env, ids) : 0;
  jint* values = ids != NULL ? (*env)->GetIntArrayElements(env, ids, NULL) : NULL;
  check(env, tandem_session_prefill(session_of(session), (const int32_t*)values, (size_t)count));
  if (values != NULL) (*env)->ReleaseIntArrayElements(env, ids, values, JNI_ABORT);
}

struct stream {
  JNIEnv* env; /* of the calling thread, on which callbacks come */
  jobject listener;
  jmethodID on_bytes;
};

static int on_token(const tandem_token* token, void* user_data) {
  const struct stream* stream = user_data;
  JNIEnv* env = stream->env;
  if (token->text_bytes == 0) return 0;
  jbyteArray piece = bytes_of(env, token->text, token->text_bytes);
  if (piece == NULL) return 1;
  const jboolean more = (*env)->CallBooleanMethod(env, stream->listener, stream->on_bytes, piece);
  (*env)->DeleteLocalRef(env, piece); /* an answer has many pieces, and local references are few */
  return (*env)->ExceptionCheck(env) || !more;
}

void NATIVE(generate)(JNIEnv* env, jclass self, jlong session, jint max_tokens, jobject listener) {
  (void)self;
  struct stream stream = {env, listener, NULL};
  stream.on_bytes = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, listener), "onBytes", "([B)Z");
  if (stream.on_bytes == NULL) return;
  tandem_sampling sampling = {.size = sizeof sampling};
  sampling.max_tokens = max_tokens;
  check(env, tandem_session_generate(session_of(session), &sampling, on_token, &stream, NULL));
}

void NATIVE(cancel)(JNIEnv* env, jclass self, jlong session) {
  (void)self;
  check(env, tandem_session_cancel(session_of(session)));
}

void NATIVE(closeSession)(JNIEnv* env, jclass self, jlong session) {
  (void)self;
  check(env, tandem_session_close(session_of(session)));
}

void NATIVE(closeEngine)(JNIEnv* env, jclass self, jlong engine) {
  (void)self;
  check(env, tandem_engine_close(engine_of(engine)));
}
