/* A libnvidia-ml.so.1 whose readings come from a text file, for machines without a GPU.

   GUARDIAN_STUB_NVML names the file; it is read again at every call, so that a test can let the card change. Lines:
     cards N              how many cards there are
     init CODE            what nvmlInitWithFlags answers
     stuck FUNCTION       a call of this function never returns
     G KEY VALUE          of card G: total, used, reserved (MiB), gpu, memory (percent), power, limit (milliwatts),
                          temperature, sm, memory_clock, reasons (bits), ecc, corrected, remapped, pending, failure, mig
     G no KEY             the card does not support this reading
     G lost 1             every call for the card answers NVML_ERROR_GPU_IS_LOST
     G proc PID MIB       a process on the card; MIB of -1: its memory is not told
     G xid NUMBER         an Xid event; each line is told once

   Only the versioned names that nvidia-ml-py asks for are here; what it asks for besides is "function not found". */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, LOST = 15 };
#define MIB (1024ULL * 1024ULL)
#define LINE 256

typedef struct { int index; } Card;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;
typedef struct { Card *device; unsigned long long type, data; unsigned instance, compute; } Event;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, sub;
    char bus_id[32];
} Pci;

static Card cards[16];
static int told_xids;

static FILE *script(void) {
    const char *path = getenv("GUARDIAN_STUB_NVML");
    return path ? fopen(path, "r") : NULL;
}

static int head(const char *key, char *value) {
    char line[LINE], word[64], rest[64];
    int found = 0;
    FILE *file = script();
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%63s %63s", word, rest) == 2 && !strcmp(word, key)) { strcpy(value, rest); found = 1; }
    fclose(file);
    return found;
}

static void maybe_stuck(const char *function) {
    char line[LINE], word[64], rest[64];
    FILE *file = script();
    int stuck = 0;
    while (file && fgets(line, sizeof line, file))
        stuck |= sscanf(line, "%63s %63s", word, rest) == 2 && !strcmp(word, "stuck") && !strcmp(rest, function);
    if (file) fclose(file);
    while (stuck) pause();
}

/* The reading KEY of a card: OK, LOST, or NOT_SUPPORTED where the script says so or nothing. */
static int reading(Card *card, const char *key, long long *value) {
    char line[LINE], word[64], rest[64];
    int index, status = NOT_SUPPORTED;
    FILE *file = script();
    if (!file) return NOT_SUPPORTED;
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%d %63s %63s", &index, word, rest) != 3 || index != card->index) continue;
        if (!strcmp(word, "lost")) { status = LOST; break; }
        if (!strcmp(word, "no") && !strcmp(rest, key)) { status = NOT_SUPPORTED; break; }
        if (!strcmp(word, key)) { *value = atoll(rest); status = OK; }
    }
    fclose(file);
    return status;
}

static int number(Card *card, const char *key, unsigned *out) {
    long long value = 0;
    int status = reading(card, key, &value);
    *out = (unsigned)value;
    return status;
}

static int lost(Card *card) {
    long long unused;
    return reading(card, "total", &unused) == LOST ? LOST : OK;
}

int nvmlInitWithFlags(unsigned flags) {
    char value[64];
    (void)flags;
    maybe_stuck("nvmlInitWithFlags");
    return head("init", value) ? atoi(value) : OK;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "stub error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { snprintf(out, size, "999.0-stub"); return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    char value[64];
    *count = head("cards", value) ? (unsigned)atoi(value) : 0;
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Card **card) {
    if (index >= 16) return INVALID;
    cards[index].index = (int)index;
    *card = &cards[index];
    return OK;
}
int nvmlDeviceGetUUID(Card *card, char *out, unsigned size) { snprintf(out, size, "GPU-stub-%d", card->index); return OK; }
int nvmlDeviceGetName(Card *card, char *out, unsigned size) { (void)card; snprintf(out, size, "Stub 9000"); return OK; }
int nvmlDeviceGetPciInfo_v3(Card *card, Pci *pci) {
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x3b + (unsigned)card->index;
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    return OK;
}

static int memory(Card *card, Memory2 *out) {
    long long total = 0, used = 0, reserved = 0;
    int status = reading(card, "total", &total);
    if (status == OK) status = reading(card, "used", &used);
    if (status != OK) return status;
    reading(card, "reserved", &reserved);
    out->total = (unsigned long long)total * MIB;
    out->used = (unsigned long long)used * MIB;
    out->reserved = (unsigned long long)reserved * MIB;
    out->free = out->total - out->used - out->reserved;
    return OK;
}
int nvmlDeviceGetMemoryInfo(Card *card, Memory *out) {
    Memory2 all;
    int status = memory(card, &all);
    if (status != OK) return status;
    out->total = all.total;
    out->used = all.used + all.reserved;
    out->free = all.free;
    return OK;
}
int nvmlDeviceGetMemoryInfo_v2(Card *card, Memory2 *out) {
    maybe_stuck("nvmlDeviceGetMemoryInfo_v2");
    return memory(card, out);
}
int nvmlDeviceGetUtilizationRates(Card *card, Utilization *out) {
    int status = number(card, "gpu", &out->gpu);
    return status == OK ? number(card, "memory", &out->memory) : status;
}
int nvmlDeviceGetPowerUsage(Card *card, unsigned *out) { return number(card, "power", out); }
int nvmlDeviceGetEnforcedPowerLimit(Card *card, unsigned *out) { return number(card, "limit", out); }
int nvmlDeviceGetTemperature(Card *card, int sensor, unsigned *out) { (void)sensor; return number(card, "temperature", out); }
int nvmlDeviceGetClockInfo(Card *card, int type, unsigned *out) { return number(card, type == 1 ? "sm" : "memory_clock", out); }
int nvmlDeviceGetCurrentClocksEventReasons(Card *card, unsigned long long *out) {
    long long value = 0;
    int status = reading(card, "reasons", &value);
    *out = (unsigned long long)value;
    return status;
}
int nvmlDeviceGetTotalEccErrors(Card *card, int type, int counter, unsigned long long *out) {
    long long value = 0;
    int status = reading(card, type == 1 ? "ecc" : "corrected", &value);
    (void)counter;
    *out = (unsigned long long)value;
    return status;
}
int nvmlDeviceGetRemappedRows(Card *card, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failure) {
    int status = number(card, "remapped", uncorrected);
    *corrected = 0;
    *pending = *failure = 0;
    number(card, "pending", pending);
    number(card, "failure", failure);
    return status;
}
int nvmlDeviceGetMigMode(Card *card, unsigned *current, unsigned *pending) {
    int status = number(card, "mig", current);
    *pending = *current;
    return status;
}

static int processes(Card *card, unsigned *count, Process *out) {
    char line[LINE];
    unsigned room = out ? *count : 0, found = 0, pid;
    int index;
    long long mib;
    FILE *file = script();
    if (lost(card)) { if (file) fclose(file); return LOST; }
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%d proc %u %lld", &index, &pid, &mib) != 3 || index != card->index) continue;
        if (found < room) {
            out[found].pid = pid;
            out[found].used = mib < 0 ? ~0ULL : (unsigned long long)mib * MIB;
            out[found].instance = out[found].compute = ~0U;
        }
        found++;
    }
    if (file) fclose(file);
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Card *card, unsigned *count, Process *out) { return processes(card, count, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(Card *card, unsigned *count, Process *out) {
    (void)out;
    *count = 0;
    return lost(card);
}

int nvmlEventSetCreate(void **set) { static int one; *set = &one; return OK; }
int nvmlDeviceRegisterEvents(Card *card, unsigned long long types, void *set) { (void)types; (void)set; return lost(card); }
int nvmlEventSetWait_v2(void *set, Event *event, unsigned timeout_ms) {
    char line[LINE];
    unsigned waited;
    (void)set;
    maybe_stuck("nvmlEventSetWait_v2");
    for (waited = 0;; waited += 20) {
        int index, xid, seen = 0;
        FILE *file = script();
        while (file && fgets(line, sizeof line, file)) {
            if (sscanf(line, "%d xid %d", &index, &xid) != 2 || seen++ < told_xids) continue;
            told_xids++;
            fclose(file);
            cards[index].index = index;
            *event = (Event){&cards[index], 8, (unsigned long long)xid, ~0U, ~0U};
            return OK;
        }
        if (file) fclose(file);
        if (waited >= timeout_ms) return TIMEOUT;
        usleep(20000);
    }
}
