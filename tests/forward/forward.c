/* A PKCS#11 module that forwards to another and misbehaves on request.
 *
 * FORWARD_MODULE names the module behind it, FORWARD_DIR a directory:
 *   calls          every C_Login, C_SetPIN, C_InitToken, C_InitPIN is appended: "name label"
 *   hang-LABEL     while this file is there, C_Login, C_SetPIN and C_InitPIN on that token do not return
 *   crash-LABEL    C_Login on that token kills the process, after the module behind did its work
 *   lie-LABEL      C_Login on that token says CKR_USER_ALREADY_LOGGED_IN without asking anybody
 *   garbage-LABEL  C_Login on that token writes a frame with a senseless body to every socket of the process
 *   noise-LABEL    the same with a header that no frame has
 *   cling-LABEL    C_Logout on that token says CKR_OK and does nothing
 *   hide-LABEL     that token is not present
 *   mute-LABEL     while this file is there, C_GetTokenInfo on that token does not return
 *   mute-module    while this file is there, C_Initialize does not return
 *   crash-module   C_Initialize kills the process
 *
 * Types are PKCS#11's on 64-bit Linux (v2.40, section 2); only what is overridden is named.
 */
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef ulong_t (*any_fn)();

struct function_list {
    unsigned char version[2];
    any_fn function[68];
};
enum { INITIALIZE = 0, GET_FUNCTION_LIST = 3, GET_TOKEN_INFO = 6, INIT_TOKEN = 9, INIT_PIN = 10, SET_PIN = 11,
       GET_SESSION_INFO = 15, LOGIN = 18, LOGOUT = 19 };
enum { CKR_GENERAL_ERROR = 0x05, CKR_TOKEN_NOT_PRESENT = 0xE0, CKR_USER_ALREADY_LOGGED_IN = 0x100 };

static struct function_list *behind;
static struct function_list ours;

static void label_of_slot(ulong_t slot, char *label) {
    unsigned char info[1024] = {0};
    label[0] = 0;
    if (behind->function[GET_TOKEN_INFO](slot, info) == 0) {
        memcpy(label, info, 32);
        int end = 32;
        while (end > 0 && label[end - 1] == ' ') end--;
        label[end] = 0;
    }
}

static void label_of_session(ulong_t session, char *label) {
    ulong_t info[8] = {0};
    label[0] = 0;
    if (behind->function[GET_SESSION_INFO](session, info) == 0) label_of_slot(info[0], label);
}

static int asked_to(const char *what, const char *label) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s-%s", getenv("FORWARD_DIR"), what, label);
    return access(path, F_OK) == 0;
}

static void record(const char *name, const char *label) {
    char path[4096];
    snprintf(path, sizeof path, "%s/calls", getenv("FORWARD_DIR"));
    FILE *file = fopen(path, "a");
    if (!file) return;
    fprintf(file, "%s %s\n", name, label);
    fclose(file);
}

static ulong_t initialize(void *arguments) {
    if (asked_to("crash", "module")) raise(SIGKILL);
    while (asked_to("mute", "module")) usleep(20000);
    return behind->function[INITIALIZE](arguments);
}

static ulong_t get_token_info(ulong_t slot, void *info) {
    char label[33];
    label_of_slot(slot, label);
    while (asked_to("mute", label)) usleep(20000);
    if (asked_to("hide", label)) return CKR_TOKEN_NOT_PRESENT;
    return behind->function[GET_TOKEN_INFO](slot, info);
}

/* What foreign code in the process can do to the frames: {length, request, slot, kind}, body. */
static void write_to_sockets(const void *bytes, size_t count) {
    struct stat what;
    for (int fd = 3; fd < 64; fd++)
        if (fstat(fd, &what) == 0 && S_ISSOCK(what.st_mode) && write(fd, bytes, count) < 0) perror("forward");
}

static ulong_t login(ulong_t session, ulong_t user, unsigned char *pin, ulong_t length) {
    char label[33];
    label_of_session(session, label);
    record("C_Login", label);
    if (asked_to("garbage", label)) write_to_sockets("\1\0\0\0\0\0\0\0\0\4\377", 11);
    if (asked_to("noise", label)) write_to_sockets("\377\377\377\377\377\377\377\377\377\377", 10);
    while (asked_to("hang", label)) usleep(20000);
    if (asked_to("lie", label)) return CKR_USER_ALREADY_LOGGED_IN;
    ulong_t result = behind->function[LOGIN](session, user, pin, length);
    if (asked_to("crash", label)) raise(SIGKILL);
    return result;
}

static ulong_t set_pin(ulong_t session, unsigned char *old, ulong_t old_length, unsigned char *new, ulong_t new_length) {
    char label[33];
    label_of_session(session, label);
    record("C_SetPIN", label);
    while (asked_to("hang", label)) usleep(20000);
    return behind->function[SET_PIN](session, old, old_length, new, new_length);
}

static ulong_t logout(ulong_t session) {
    char label[33];
    label_of_session(session, label);
    return asked_to("cling", label) ? 0 : behind->function[LOGOUT](session);
}

static ulong_t init_token(ulong_t slot, unsigned char *pin, ulong_t length, unsigned char *label) {
    record("C_InitToken", "");
    return behind->function[INIT_TOKEN](slot, pin, length, label);
}

static ulong_t init_pin(ulong_t session, unsigned char *pin, ulong_t length) {
    char label[33];
    label_of_session(session, label);
    record("C_InitPIN", label);
    while (asked_to("hang", label)) usleep(20000);
    return behind->function[INIT_PIN](session, pin, length);
}

ulong_t C_GetFunctionList(struct function_list **list) {
    if (!getenv("FORWARD_MODULE") || !getenv("FORWARD_DIR")) return CKR_GENERAL_ERROR;
    void *module = dlopen(getenv("FORWARD_MODULE"), RTLD_NOW | RTLD_LOCAL);
    if (!module) return CKR_GENERAL_ERROR;
    ulong_t (*entry)(struct function_list **) = (ulong_t (*)(struct function_list **))dlsym(module, "C_GetFunctionList");
    if (!entry || entry(&behind) != 0) return CKR_GENERAL_ERROR;
    ours = *behind;
    ours.function[INITIALIZE] = (any_fn)initialize;
    ours.function[GET_FUNCTION_LIST] = (any_fn)C_GetFunctionList;
    ours.function[GET_TOKEN_INFO] = (any_fn)get_token_info;
    ours.function[INIT_TOKEN] = (any_fn)init_token;
    ours.function[INIT_PIN] = (any_fn)init_pin;
    ours.function[SET_PIN] = (any_fn)set_pin;
    ours.function[LOGIN] = (any_fn)login;
    ours.function[LOGOUT] = (any_fn)logout;
    *list = &ours;
    return 0;
}
