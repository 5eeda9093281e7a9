/* A job that does nothing but die: it notes the time of its first instruction and of its death, on one clock.
 *
 *   child NOTES LIFE_S DEATHS     lives LIFE_S seconds and kills itself, as long as NOTES shows fewer than DEATHS deaths
 *
 * Each life is up to a second longer, by chance: who looks every 0.1 s would otherwise always look at the right moment.
 * Linked statically where that works, so that "first instruction" is not the dynamic loader's affair. The clock is
 * CLOCK_MONOTONIC, the one that time.monotonic_ns() of the program that reads the notes uses.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct timespec now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at;
}

static void note(int notes, const char *what, struct timespec at) {
  char line[80];
  int length = snprintf(line, sizeof line, "%s %lld\n", what, at.tv_sec * 1000000000LL + at.tv_nsec);
  if (write(notes, line, length) != length) _exit(2);
}

static int deaths(const char *path) {
  char line[80];
  int count = 0;
  FILE *file = fopen(path, "r");
  while (file && fgets(line, sizeof line, file)) count += !strncmp(line, "died", 4);
  if (file) fclose(file);
  return count;
}

int main(int argc, char **argv) {
  struct timespec began = now();
  if (argc != 4) return 2;
  int notes = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
  if (notes < 0) return 2;
  note(notes, "began", began);
  if (deaths(argv[1]) >= atoi(argv[3])) return 0;
  double life = atof(argv[2]) + (double)(began.tv_nsec / 1000 % 1000) / 1000; /* the microseconds are chance enough */
  struct timespec wait = {(time_t)life, (long)((life - (time_t)life) * 1e9)};
  while (nanosleep(&wait, &wait)) {}
  note(notes, "died", now());
  kill(getpid(), SIGKILL);
  return 1;
}
