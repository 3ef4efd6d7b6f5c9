#include "exits.h"

#include <stdarg.h>

#include "platform.h"

static void write_all(int descriptor, const char *text, size_t bytes) {
  while (bytes) {
    long done = write(descriptor, text, bytes);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) _exit(EXIT_FAILED);
    text += done, bytes -= (size_t)done;
  }
}

/* A message may quote what a bundle or a loader says: it stays one line of printable ASCII. */
static void complain(const char *before, const char *format, va_list arguments) {
  char line[512];
  size_t at = strlen(before);
  memcpy(line, before, at);
  int more = vsnprintf(line + at, sizeof line - at - 1, format, arguments);
  size_t length = more < 0 ? at : at + (size_t)more;
  if (length > sizeof line - 2) length = sizeof line - 2;
  for (size_t i = 0; i < length; i++)
    if (line[i] < ' ' || line[i] > '~') line[i] = '?';
  line[length] = '\n';
  write_all(2, line, length + 1);
}

void end(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  complain("error: ", format, arguments);
  va_end(arguments);
  _exit(status);
}

void refuse(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  complain("error: bundle refused: ", format, arguments);
  va_end(arguments);
  _exit(EXIT_REFUSED);
}

void note(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  complain("note: ", format, arguments);
  va_end(arguments);
}

void print(const char *format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  int bytes = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (bytes > 0) write_all(1, text, (size_t)bytes < sizeof text ? (size_t)bytes : sizeof text - 1);
}
