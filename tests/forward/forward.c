/* A PKCS#11 module that forwards to another: fault injector and ruler.
 *
 * FORWARD_MODULE         the module behind it
 *
 * As a ruler it is a network HSM on a desk, and counts:
 *
 * FORWARD_LATENCY_MS     milliseconds (a decimal) that each call that would cross a network takes longer. These are
 *                        all but those that a client library answers alone: C_Initialize, C_Finalize, C_GetInfo,
 *                        C_GetFunctionList, C_GetFunctionStatus, C_CancelFunction, C_WaitForSlotEvent
 * FORWARD_LATENCY_CALLS  "C_Login,C_SetPIN,...": only these take longer
 * FORWARD_SERIAL         "module": one call at a time in the whole module; "slot": one at a time on each slot.
 *                        Only calls that would cross a network; the time they take longer is inside
 * FORWARD_COUNT          "all": every call is written to FORWARD_DIR/calls, not only those that try or change a PIN;
 *                        FORWARD_DIR/most says how many that would cross a network were made at a time at most
 *
 * As a fault injector it is told when it is loaded:
 *
 * FORWARD_HANG           "SLOT:SECONDS[:FUNCTION]": from the first call on, the slot answers nothing for so long
 *                        ("ever": for ever); with a function only that one is not answered. The slot is a token
 *                        label, or "#3" for the fourth in the list of slots with a token
 * FORWARD_FAIL           "FUNCTION[@LABEL]:N:CODE[:after]": the N-th call (from 1, in this process) of this function,
 *                        or of "any", fails with this CK_RV; with "after" only after the module behind did its work
 *
 * or while it runs, by files in the directory FORWARD_DIR:
 *
 *   calls          every C_Login, C_SetPIN, C_InitToken, C_InitPIN is appended: "name label"
 *   hang-LABEL     while this file is there, C_Login, C_SetPIN and C_InitPIN on that token do not return
 *   crash-LABEL    C_Login on that token kills the process, after the module behind did its work
 *   lie-LABEL      C_Login on that token says CKR_USER_ALREADY_LOGGED_IN without asking anybody
 *   garbage-LABEL  C_Login on that token writes a frame with a senseless body to every socket of the process
 *   noise-LABEL    the same with a header that no frame has
 *   clear-LABEL    C_CreateObject on that token says CKR_TEMPLATE_INCONSISTENT and does nothing
 *   alone-LABEL    C_CreateObject on that token kills the process, after the module behind did its work
 *   cling-LABEL    C_Logout on that token says CKR_OK and does nothing
 *   stuck-LABEL    while this file is there, C_Logout on that token does not return
 *   search-LABEL   while this file is there, C_FindObjectsInit on that token does not return
 *   full-LABEL     that token has room for as many objects of the token as the number in this file says, which is
 *                  counted down; then C_CreateObject and C_UnwrapKey say CKR_DEVICE_MEMORY for them
 *   hide-LABEL     that token is not present
 *   mute-LABEL     while this file is there, C_GetTokenInfo on that token does not return
 *   mute-module    while this file is there, C_Initialize does not return
 *   crash-module   C_Initialize kills the process
 *
 * Types are PKCS#11's on 64-bit Linux (v2.40, section 2). Every function is passed on with eight arguments, the most
 * that one has: on the machines we test on (x86-64, arm64) a caller's missing ones are whatever was there, and the
 * module behind does not look at them.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef ulong_t (*any_fn)();

/* Every function of v2.40, in the order of CK_FUNCTION_LIST, and what its first argument says of the slot. ALONE: a
 * client library answers it without asking anybody. */
#define FUNCTIONS(X) \
    X(Initialize, ALONE) X(Finalize, ALONE) X(GetInfo, ALONE) X(GetFunctionList, ALONE) X(GetSlotList, MODULE) \
    X(GetSlotInfo, SLOT) X(GetTokenInfo, SLOT) X(GetMechanismList, SLOT) X(GetMechanismInfo, SLOT) \
    X(InitToken, SLOT) X(InitPIN, SESSION) X(SetPIN, SESSION) X(OpenSession, SLOT) X(CloseSession, SESSION) \
    X(CloseAllSessions, SLOT) X(GetSessionInfo, SESSION) X(GetOperationState, SESSION) \
    X(SetOperationState, SESSION) X(Login, SESSION) X(Logout, SESSION) X(CreateObject, SESSION) \
    X(CopyObject, SESSION) X(DestroyObject, SESSION) X(GetObjectSize, SESSION) X(GetAttributeValue, SESSION) \
    X(SetAttributeValue, SESSION) X(FindObjectsInit, SESSION) X(FindObjects, SESSION) \
    X(FindObjectsFinal, SESSION) X(EncryptInit, SESSION) X(Encrypt, SESSION) X(EncryptUpdate, SESSION) \
    X(EncryptFinal, SESSION) X(DecryptInit, SESSION) X(Decrypt, SESSION) X(DecryptUpdate, SESSION) \
    X(DecryptFinal, SESSION) X(DigestInit, SESSION) X(Digest, SESSION) X(DigestUpdate, SESSION) \
    X(DigestKey, SESSION) X(DigestFinal, SESSION) X(SignInit, SESSION) X(Sign, SESSION) X(SignUpdate, SESSION) \
    X(SignFinal, SESSION) X(SignRecoverInit, SESSION) X(SignRecover, SESSION) X(VerifyInit, SESSION) \
    X(Verify, SESSION) X(VerifyUpdate, SESSION) X(VerifyFinal, SESSION) X(VerifyRecoverInit, SESSION) \
    X(VerifyRecover, SESSION) X(DigestEncryptUpdate, SESSION) X(DecryptDigestUpdate, SESSION) \
    X(SignEncryptUpdate, SESSION) X(DecryptVerifyUpdate, SESSION) X(GenerateKey, SESSION) \
    X(GenerateKeyPair, SESSION) X(WrapKey, SESSION) X(UnwrapKey, SESSION) X(DeriveKey, SESSION) \
    X(SeedRandom, SESSION) X(GenerateRandom, SESSION) X(GetFunctionStatus, ALONE) X(CancelFunction, ALONE) \
    X(WaitForSlotEvent, ALONE)

#define ENTRY(name, kind) N_##name,
enum { FUNCTIONS(ENTRY) COUNT };
#define NAME(name, kind) "C_" #name,
static const char *const name_of[COUNT] = { FUNCTIONS(NAME) };
enum kind { ALONE, MODULE, SLOT, SESSION };
#define KIND(name, kind) kind,
static const enum kind kind_of[COUNT] = { FUNCTIONS(KIND) };

struct attribute {
    ulong_t type;
    const void *value;
    ulong_t length;
};
enum { CKA_TOKEN = 1 };

struct function_list {
    unsigned char version[2];
    any_fn function[COUNT];
};
enum { CKR_TEMPLATE_INCONSISTENT = 0xD1, CKR_GENERAL_ERROR = 0x05, CKR_DEVICE_MEMORY = 0x31, CKR_TOKEN_NOT_PRESENT = 0xE0, CKR_USER_ALREADY_LOGGED_IN = 0x100 };
enum { SLOTS_MAX = 1024 };
static const ulong_t NO_SLOT = ~0UL;

static struct function_list *behind;
static struct function_list ours;

/* What the environment asked for. */
static const char *directory;
static int counts_all;
static long latency_us;
static int takes_longer[COUNT];
static enum { TOGETHER, ONE_IN_MODULE, ONE_ON_SLOT } serial;
static struct { char slot[64]; double seconds; int function; } hang = { .function = COUNT };
static struct { char label[33]; int function; long which; ulong_t code; int after; } failure;

/* What happened so far; `state` guards it. */
static pthread_mutex_t state = PTHREAD_MUTEX_INITIALIZER;
static double hangs_since;
static long calls_that_may_fail, in_flight, in_flight_most;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void label_of_slot(ulong_t slot, char *label) {
    unsigned char info[1024] = {0};
    label[0] = 0;
    if (slot != NO_SLOT && behind->function[N_GetTokenInfo](slot, info) == 0) {
        memcpy(label, info, 32);
        int end = 32;
        while (end > 0 && label[end - 1] == ' ') end--;
        label[end] = 0;
    }
}

/* The slot a call is about, as its first argument says. */
static ulong_t slot_of(int function, ulong_t first) {
    ulong_t info[8] = {0};
    switch (kind_of[function]) {
    case SLOT: return first;
    case SESSION: return behind->function[N_GetSessionInfo](first, info) == 0 ? info[0] : NO_SLOT;
    case ALONE: case MODULE: return NO_SLOT;
    }
    return NO_SLOT;
}

static int asked_to(const char *what, const char *label) {
    char path[4096];
    if (!directory) return 0;
    snprintf(path, sizeof path, "%s/%s-%s", directory, what, label);
    return access(path, F_OK) == 0;
}

/* One write, so that lines of several threads and processes do not mix. */
static void record(const char *name, const char *label) {
    char text[4096];
    if (!directory) return;
    snprintf(text, sizeof text, "%s/calls", directory);
    int file = open(text, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (file < 0) return;
    int length = snprintf(text, sizeof text, "%s %s\n", name, label);
    if (write(file, text, length) != length) perror("forward");
    close(file);
}

/* One call more (+1) or less (-1) is being made that would cross a network. */
static void count_in_flight(int function, int change) {
    char path[4096];
    if (!counts_all || !directory || kind_of[function] == ALONE) return;
    pthread_mutex_lock(&state);
    in_flight += change;
    if (in_flight > in_flight_most) {
        in_flight_most = in_flight;
        snprintf(path, sizeof path, "%s/most", directory);
        FILE *file = fopen(path, "w");
        if (file) {
            fprintf(file, "%ld\n", in_flight_most);
            fclose(file);
        }
    }
    pthread_mutex_unlock(&state);
}

/* What foreign code in the process can do to the frames: {length, request, slot, kind}, body. */
static void write_to_sockets(const void *bytes, size_t count) {
    struct stat what;
    for (int fd = 3; fd < 64; fd++)
        if (fstat(fd, &what) == 0 && S_ISSOCK(what.st_mode) && write(fd, bytes, count) < 0) perror("forward");
}

/* Whether FORWARD_HANG means this slot. */
static int is_hung(ulong_t slot, const char *label) {
    ulong_t list[SLOTS_MAX], count = SLOTS_MAX;
    if (!hang.slot[0] || slot == NO_SLOT) return 0;
    if (hang.slot[0] != '#') return strcmp(hang.slot, label) == 0;
    ulong_t index = strtoul(hang.slot + 1, NULL, 10);
    return behind->function[N_GetSlotList](1, list, &count) == 0 && index < count && list[index] == slot;
}

static void wait_while_hung(int function, ulong_t slot, const char *label) {
    if ((hang.function != COUNT && hang.function != function) || !is_hung(slot, label)) return;
    pthread_mutex_lock(&state);
    if (hangs_since == 0) hangs_since = now();
    double until = hangs_since + hang.seconds;
    pthread_mutex_unlock(&state);
    while (hang.seconds < 0 || now() < until) usleep(5000);
}

/* Whether this is the call that fails. */
static int fails(int function, const char *label) {
    if (failure.which == 0 || (failure.function != COUNT && failure.function != function)) return 0;
    if (failure.label[0] && strcmp(failure.label, label) != 0) return 0;
    pthread_mutex_lock(&state);
    int is_it = ++calls_that_may_fail == failure.which;
    pthread_mutex_unlock(&state);
    return is_it;
}

/* What files ask of this call. Nonzero: `*answer` is given at once. */
static int misbehave(int function, const char *label, ulong_t *answer) {
    if (function == N_Login) {
        if (asked_to("garbage", label)) write_to_sockets("\1\0\0\0\0\0\0\0\0\4\377", 11);
        if (asked_to("noise", label)) write_to_sockets("\377\377\377\377\377\377\377\377\377\377", 10);
    }
    if (function == N_Login || function == N_SetPIN || function == N_InitPIN)
        while (asked_to("hang", label)) usleep(20000);
    if (function == N_Logout)
        while (asked_to("stuck", label)) usleep(20000);
    if (function == N_FindObjectsInit)
        while (asked_to("search", label)) usleep(20000);
    if (function == N_GetTokenInfo) {
        while (asked_to("mute", label)) usleep(20000);
        *answer = CKR_TOKEN_NOT_PRESENT;
        return asked_to("hide", label);
    }
    *answer = CKR_TEMPLATE_INCONSISTENT;
    if (function == N_CreateObject && asked_to("clear", label)) return 1;
    *answer = function == N_Login ? CKR_USER_ALREADY_LOGGED_IN : 0;
    return (function == N_Login && asked_to("lie", label)) || (function == N_Logout && asked_to("cling", label));
}

/* Whether a template asks for an object of the token. */
static int is_for_token(const struct attribute *template, ulong_t count) {
    for (ulong_t i = 0; i < count; i++)
        if (template[i].type == CKA_TOKEN && template[i].length == 1) return *(const unsigned char *)template[i].value;
    return 0;
}

/* Whether there is no room for the object that this call is to make; takes the room if there is. */
static int is_full(int function, const char *label, ulong_t b, ulong_t c, ulong_t f, ulong_t g) {
    char path[4096];
    long room = 0;
    if (!directory || !asked_to("full", label)) return 0;
    if (function == N_CreateObject ? !is_for_token((const struct attribute *)b, c)
                                   : function != N_UnwrapKey || !is_for_token((const struct attribute *)f, g))
        return 0;
    snprintf(path, sizeof path, "%s/full-%s", directory, label);
    pthread_mutex_lock(&state);
    FILE *file = fopen(path, "r+");
    if (file) {
        if (fscanf(file, "%ld", &room) == 1 && room > 0) {
            rewind(file);
            fprintf(file, "%ld\n", room - 1);
        }
        fclose(file);
    }
    pthread_mutex_unlock(&state);
    return room <= 0;
}

static pthread_mutex_t *lock_of(int function, ulong_t slot) {
    static pthread_mutex_t whole = PTHREAD_MUTEX_INITIALIZER, each[SLOTS_MAX];
    if (kind_of[function] == ALONE || serial == TOGETHER) return NULL;
    return serial == ONE_IN_MODULE || slot == NO_SLOT ? &whole : &each[slot % SLOTS_MAX];
}

static ulong_t make(int function, ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f, ulong_t g,
                    ulong_t h) {
    char label[33] = "";
    ulong_t answer = 0, slot = slot_of(function, a);
    int tries_pin = function == N_Login || function == N_SetPIN || function == N_InitToken || function == N_InitPIN;
    label_of_slot(slot, label);
    /* A token that is being made has no name that anybody counts by. */
    if (counts_all || tries_pin) record(name_of[function], function == N_InitToken ? "" : label);
    wait_while_hung(function, slot, label);
    if (misbehave(function, label, &answer)) return answer;
    if (is_full(function, label, b, c, f, g)) return CKR_DEVICE_MEMORY;
    int fault = fails(function, label);
    if (fault && !failure.after) return failure.code;
    pthread_mutex_t *lock = lock_of(function, slot);
    if (lock) pthread_mutex_lock(lock);
    if (takes_longer[function]) usleep(latency_us);
    answer = behind->function[function](a, b, c, d, e, f, g, h);
    if (lock) pthread_mutex_unlock(lock);
    if (function == N_Login && asked_to("crash", label)) raise(SIGKILL);
    if (function == N_CreateObject && asked_to("alone", label)) raise(SIGKILL);
    return fault ? failure.code : answer;
}

static ulong_t forward(int function, ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f, ulong_t g,
                       ulong_t h) {
    count_in_flight(function, 1);
    ulong_t answer = make(function, a, b, c, d, e, f, g, h);
    count_in_flight(function, -1);
    return answer;
}

#define WRAPPER(name, kind)                                                                                       \
    static ulong_t forward_##name(ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f, ulong_t g,    \
                                  ulong_t h) {                                                                    \
        return forward(N_##name, a, b, c, d, e, f, g, h);                                                         \
    }
FUNCTIONS(WRAPPER)

static ulong_t initialize(void *arguments) {
    if (asked_to("crash", "module")) raise(SIGKILL);
    while (asked_to("mute", "module")) usleep(20000);
    return forward_Initialize((ulong_t)arguments, 0, 0, 0, 0, 0, 0, 0);
}

static int function_named(const char *name) {
    for (int function = 0; function < COUNT; function++)
        if (strcmp(name, name_of[function]) == 0) return function;
    if (strcmp(name, "any") == 0) return COUNT;
    /* A misspelt ruler measures nothing: better no module than a wrong figure. */
    fprintf(stderr, "forward: there is no function %s\n", name);
    exit(64);
}

static void refuse(const char *variable) {
    fprintf(stderr, "forward: %s cannot be read\n", variable);
    exit(64);
}

static void read_latency(void) {
    const char *text = getenv("FORWARD_LATENCY_MS"), *only = getenv("FORWARD_LATENCY_CALLS");
    if (!text) return;
    latency_us = (long)(strtod(text, NULL) * 1000);
    if (latency_us <= 0) refuse("FORWARD_LATENCY_MS");
    for (int function = 0; function < COUNT; function++) takes_longer[function] = !only && kind_of[function] != ALONE;
    if (!only) return;
    char names[4096], *rest = names, *name;
    snprintf(names, sizeof names, "%s", only);
    while ((name = strsep(&rest, ",")))
        for (int found = function_named(name), function = 0; function < COUNT; function++)
            takes_longer[function] |= found == COUNT || found == function;
}

static void read_serial(void) {
    const char *text = getenv("FORWARD_SERIAL");
    if (!text) return;
    if (strcmp(text, "module") != 0 && strcmp(text, "slot") != 0) refuse("FORWARD_SERIAL");
    serial = strcmp(text, "module") == 0 ? ONE_IN_MODULE : ONE_ON_SLOT;
}

static void read_hang(void) {
    char seconds[32], function[64] = "any";
    const char *text = getenv("FORWARD_HANG");
    if (!text) return;
    if (sscanf(text, "%63[^:]:%31[^:]:%63s", hang.slot, seconds, function) < 2) refuse("FORWARD_HANG");
    hang.seconds = strcmp(seconds, "ever") == 0 ? -1 : strtod(seconds, NULL);
    if (hang.seconds == 0) refuse("FORWARD_HANG");
    hang.function = function_named(function);
}

static void read_failure(void) {
    char whom[96], code[32], after[16] = "";
    const char *text = getenv("FORWARD_FAIL");
    if (!text) return;
    if (sscanf(text, "%95[^:]:%ld:%31[^:]:%15s", whom, &failure.which, code, after) < 3) refuse("FORWARD_FAIL");
    char *at = strchr(whom, '@');
    if (at) {
        *at = 0;
        snprintf(failure.label, sizeof failure.label, "%s", at + 1);
    }
    failure.function = function_named(whom);
    failure.code = strtoul(code, NULL, 0);
    failure.after = strcmp(after, "after") == 0;
    if (failure.which < 1 || failure.code == 0 || (after[0] && !failure.after)) refuse("FORWARD_FAIL");
}

ulong_t C_GetFunctionList(struct function_list **list) {
    if (!getenv("FORWARD_MODULE")) return CKR_GENERAL_ERROR;
    void *module = dlopen(getenv("FORWARD_MODULE"), RTLD_NOW | RTLD_LOCAL);
    if (!module) return CKR_GENERAL_ERROR;
    ulong_t (*entry)(struct function_list **) = (ulong_t (*)(struct function_list **))dlsym(module, "C_GetFunctionList");
    if (!entry || entry(&behind) != 0) return CKR_GENERAL_ERROR;
    directory = getenv("FORWARD_DIR");
    counts_all = getenv("FORWARD_COUNT") != NULL;
    read_latency();
    read_serial();
    read_hang();
    read_failure();
    ours = *behind;
#define OURS(name, kind) ours.function[N_##name] = (any_fn)forward_##name;
    FUNCTIONS(OURS)
    ours.function[N_Initialize] = (any_fn)initialize;
    ours.function[N_GetFunctionList] = (any_fn)C_GetFunctionList;
    *list = &ours;
    return 0;
}

/* The C floor and other plain clients find functions by name. */
#define EXPORT(name) \
    ulong_t C_##name(ulong_t a, ulong_t b, ulong_t c, ulong_t d, ulong_t e, ulong_t f, ulong_t g, ulong_t h) { \
        struct function_list *list; \
        if (!behind && C_GetFunctionList(&list) != 0) return CKR_GENERAL_ERROR; \
        return ours.function[N_##name](a, b, c, d, e, f, g, h); \
    }
EXPORT(Initialize)
EXPORT(Finalize)
EXPORT(GetSlotList)
EXPORT(GetTokenInfo)
EXPORT(OpenSession)
EXPORT(Login)
