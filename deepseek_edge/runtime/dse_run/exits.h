/* exits.h: how dse-run ends. Messages are one line on stderr. */
#ifndef DSE_RUN_EXITS_H
#define DSE_RUN_EXITS_H

enum {
  EXIT_DONE = 0,
  EXIT_FAILED = 1, /* outputs differ, or the machine lacks memory or threads */
  EXIT_USAGE = 2,
  EXIT_UNSUPPORTED = 3, /* the CPU lacks a feature, or the library is for another machine */
  EXIT_REFUSED = 5      /* the bundle is damaged or hostile */
};

/* Prints "error: ..." and ends the process. */
void end(int status, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

/* end(EXIT_REFUSED, "bundle refused: ...") */
void refuse(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Prints "note: ..." on stderr. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints to stdout; ends the process if that can't be written. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
