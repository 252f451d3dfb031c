/* A chat on the terminal in plain C:  c_chat BUNDLE < questions.txt, or interactively. Ctrl-C stops an answer. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tandem/tandem.h>

/* How a family writes a turn. The library takes token ids and leaves chat templates, which are programs of their own,
 * to the host; these two cover the models that Tandem converts. */
struct markers {
  const char *open, *close;
};
static const struct markers families[] = {{"<|turn>", "<turn|>"}, {"<start_of_turn>", "<end_of_turn>"}};

static volatile sig_atomic_t interrupted = 0;

static void on_interrupt(int number) {
  (void)number;
  interrupted = 1;
}

/* Says what went wrong; gives the status back, so that a caller can test it in place. */
static tandem_status report(tandem_status status) {
  if (status != TANDEM_OK) fprintf(stderr, "c_chat: %s: %s\n", tandem_status_name(status), tandem_last_error());
  return status;
}

static int on_token(const tandem_token* token, void* user_data) {
  (void)user_data;
  fwrite(token->text, 1, token->text_bytes, stdout);
  fflush(stdout);
  return interrupted; /* not 0 ends the answer */
}

/* Appends text to the session. `flags` as for tandem_encode(). */
static tandem_status append(tandem_engine* engine, tandem_session* session, const char* text, uint32_t flags) {
  size_t count = 0;
  tandem_status status = tandem_encode(engine, text, strlen(text), flags, NULL, 0, &count); /* only counts */
  if (status != TANDEM_OK) return status;
  int32_t* ids = malloc((count + 1) * sizeof *ids);
  if (ids == NULL) return TANDEM_OUT_OF_MEMORY;
  status = tandem_encode(engine, text, strlen(text), flags, ids, count, &count);
  if (status == TANDEM_OK) status = tandem_session_prefill(session, ids, count);
  free(ids);
  return status;
}

/* The markers that the model's chat template speaks of; NULL for a base model, which just continues text. */
static const struct markers* find_markers(tandem_engine* engine) {
  const struct markers* found = NULL;
  size_t bytes = 0;
  tandem_engine_get_text(engine, TANDEM_TEXT_CHAT_TEMPLATE, NULL, 0, &bytes); /* only its length */
  char* text = malloc(bytes + 1);
  if (text == NULL) return NULL;
  if (tandem_engine_get_text(engine, TANDEM_TEXT_CHAT_TEMPLATE, text, bytes + 1, &bytes) == TANDEM_OK) {
    for (size_t i = 0; i < sizeof families / sizeof *families; ++i) {
      if (strstr(text, families[i].open) != NULL) found = &families[i];
    }
  }
  free(text);
  return found;
}

/* One question and its answer. `*open_answer`: the answer before this one was cut short, so its turn is still open. */
static tandem_status ask(tandem_engine* engine, tandem_session* session, const struct markers* turn, const char* line,
                         int* open_answer) {
  char text[64];
  int64_t position = 0;
  tandem_status status = tandem_session_get_position(session, &position);
  uint32_t flags = TANDEM_PARSE_SPECIAL | (position == 0 ? TANDEM_ADD_BOS : 0);
  if (turn != NULL && status == TANDEM_OK) {
    snprintf(text, sizeof text, "%s%s%suser\n", *open_answer ? turn->close : "", position > 0 ? "\n" : "", turn->open);
    status = append(engine, session, text, flags);
    flags = 0; /* what a person types is never a special token */
  }
  if (status == TANDEM_OK) status = append(engine, session, line, turn != NULL ? 0 : flags & TANDEM_ADD_BOS);
  if (turn != NULL && status == TANDEM_OK) {
    snprintf(text, sizeof text, "%s\n%smodel\n", turn->close, turn->open);
    status = append(engine, session, text, TANDEM_PARSE_SPECIAL);
  }
  tandem_sampling sampling = {.size = sizeof sampling}; /* all else 0: greedy, the model's own end tokens */
  sampling.max_tokens = 512;
  tandem_finish finish = TANDEM_FINISH_NONE;
  interrupted = 0;
  if (status == TANDEM_OK) status = tandem_session_generate(session, &sampling, on_token, NULL, &finish);
  putchar('\n');
  *open_answer = finish != TANDEM_FINISH_STOP;
  return status;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s BUNDLE\n", argv[0]);
    return 2;
  }
  tandem_engine* engine = NULL;
  tandem_session* session = NULL;
  tandem_status status = report(tandem_engine_open(argv[1], NULL, &engine));
  if (status == TANDEM_OK) status = report(tandem_session_create(engine, &session));
  const struct markers* turn = status == TANDEM_OK ? find_markers(engine) : NULL;
  signal(SIGINT, on_interrupt);
  char line[4096];
  int open_answer = 0;
  while (status == TANDEM_OK && fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if (line[0] != '\0') status = report(ask(engine, session, turn, line, &open_answer));
  }
  if (session != NULL) tandem_session_close(session);
  if (engine != NULL) tandem_engine_close(engine);
  return status == TANDEM_OK ? 0 : 1;
}
