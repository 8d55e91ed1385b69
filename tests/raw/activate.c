/* The floor: what activating N slots costs without us.
 *
 *   activate MODULE COUNT PIN        C_Initialize, then per token C_OpenSession and C_Login
 *   activate MODULE init COUNT PIN   makes COUNT tokens with that user PIN (not timed)
 *
 * Declares what it calls itself (PKCS#11 v3.1, section 5), so that no header is needed.
 * Prints the microseconds from the start of main to the last accepted login. */

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long ulong;

struct initialize_args {
    void *create, *destroy, *lock, *unlock;
    ulong flags;
    void *reserved;
};

#define CKF_OS_LOCKING_OK 2UL
#define CKF_RW_SESSION 2UL
#define CKF_SERIAL_SESSION 4UL
#define CKU_SO 0UL
#define CKU_USER 1UL
/* C_GetTokenInfo: the flags follow label[32], manufacturer[32], model[16], serial[16]. */
#define FLAGS_OFFSET 96
#define CKF_TOKEN_INITIALIZED 0x400UL
#define SLOTS_MAX 256

static void *module;

static void *function(const char *name)
{
    void *found = dlsym(module, name);
    if (!found) {
        fprintf(stderr, "%s: %s\n", name, dlerror());
        exit(1);
    }
    return found;
}

static void check(const char *name, ulong rv)
{
    if (rv != 0) {
        fprintf(stderr, "%s: 0x%lx\n", name, rv);
        exit(1);
    }
}

static int initialised(ulong slot)
{
    unsigned char info[512] = {0};
    ulong flags;
    check("C_GetTokenInfo", ((ulong (*)(ulong, void *))function("C_GetTokenInfo"))(slot, info));
    memcpy(&flags, info + FLAGS_OFFSET, sizeof flags);
    return (flags & CKF_TOKEN_INITIALIZED) != 0;
}

static ulong slots(ulong *list)
{
    ulong count = SLOTS_MAX;
    check("C_GetSlotList", ((ulong (*)(unsigned char, ulong *, ulong *))function("C_GetSlotList"))(1, list, &count));
    return count;
}

static ulong session(ulong slot)
{
    ulong handle;
    check("C_OpenSession", ((ulong (*)(ulong, ulong, void *, void *, ulong *))function("C_OpenSession"))(
                               slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &handle));
    return handle;
}

static void login(ulong handle, ulong user, const char *pin)
{
    check("C_Login", ((ulong (*)(ulong, ulong, const char *, ulong))function("C_Login"))(handle, user, pin, strlen(pin)));
}

static void initialize(void)
{
    struct initialize_args arguments = {.flags = CKF_OS_LOCKING_OK};
    check("C_Initialize", ((ulong (*)(void *))function("C_Initialize"))(&arguments));
}

/* SoftHSM lists the next free slot only after it was initialised again. */
static void make(int count, const char *pin)
{
    ulong list[SLOTS_MAX];
    for (int token = 0; token < count; token++) {
        char label[33];
        ulong handle, found = slots(list), free_slot = list[found - 1];
        for (ulong i = 0; i < found; i++)
            if (!initialised(list[i]))
                free_slot = list[i];
        snprintf(label, sizeof label, "%-32d", token);
        check("C_InitToken", ((ulong (*)(ulong, const char *, ulong, const char *))function("C_InitToken"))(
                                 free_slot, "so-pin-of-the-floor", 19, label));
        handle = session(free_slot);
        login(handle, CKU_SO, "so-pin-of-the-floor");
        check("C_InitPIN", ((ulong (*)(ulong, const char *, ulong))function("C_InitPIN"))(handle, pin, strlen(pin)));
        check("C_Logout", ((ulong (*)(ulong))function("C_Logout"))(handle));
        check("C_Finalize", ((ulong (*)(void *))function("C_Finalize"))(NULL));
        initialize();
    }
}

int main(int argc, char **argv)
{
    struct timespec began, ended;
    ulong list[SLOTS_MAX], found;
    int count, active = 0;

    clock_gettime(CLOCK_MONOTONIC, &began);
    if (argc < 4 || !(module = dlopen(argv[1], RTLD_NOW))) {
        fprintf(stderr, "usage: activate MODULE [init] COUNT PIN; %s\n", argc < 4 ? "" : dlerror());
        return 64;
    }
    initialize();
    if (strcmp(argv[2], "init") == 0) {
        make(atoi(argv[3]), argv[4]);
        return 0;
    }
    count = atoi(argv[2]);
    found = slots(list);
    for (ulong i = 0; i < found && active < count; i++) {
        if (!initialised(list[i]))
            continue;
        login(session(list[i]), CKU_USER, argv[3]);
        active++;
    }
    clock_gettime(CLOCK_MONOTONIC, &ended);
    if (active != count) {
        fprintf(stderr, "%d of %d tokens\n", active, count);
        return 1;
    }
    printf("%ld\n", (ended.tv_sec - began.tv_sec) * 1000000L + (ended.tv_nsec - began.tv_nsec) / 1000L);
    fflush(stdout);
    return 0;
}
