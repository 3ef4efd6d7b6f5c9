/* dse_error.c: messages without printf, which would pull in locales and may allocate. */
#include <stdarg.h>

#include "dse_internal.h"

static size_t put(char *message, size_t at, const char *text) {
  while (*text && at + 1 < DSE_ERROR_BYTES) message[at++] = *text++;
  return at;
}

static size_t put_int(char *message, size_t at, int32_t value) {
  char digits[12];
  size_t start = sizeof digits - 1;
  uint32_t rest = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
  digits[start] = 0;
  do {
    digits[--start] = (char)('0' + rest % 10);
    rest /= 10;
  } while (rest);
  if (value < 0) digits[--start] = '-';
  return put(message, at, digits + start);
}

void dse_format(char *message, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  size_t at = 0;
  for (; *format && at + 1 < DSE_ERROR_BYTES; format++) {
    if (format[0] == '%' && format[1] == 's') {
      at = put(message, at, va_arg(arguments, const char *));
      format++;
    } else if (format[0] == '%' && format[1] == 'd') {
      at = put_int(message, at, va_arg(arguments, int32_t));
      format++;
    } else {
      message[at++] = *format;
    }
  }
  message[at] = 0;
  va_end(arguments);
}
