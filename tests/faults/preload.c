/* Faults that only the C library can play: slow and failing fsync, and a wall clock that was set.
 *
 * Loaded into a process by LD_PRELOAD. What it does is read from a page it shares with the test, at each call,
 * so it changes while the process runs. preload.py knows the layout. Without a page it changes nothing.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct control {
    int64_t sync_milliseconds;  /* a sync takes so much longer */
    int64_t sync_error;         /* 0, or the errno it fails with, and then nothing is synced */
    int64_t clock_milliseconds; /* the wall clock is so much ahead */
    int64_t syncs_begun;
    int64_t syncs_ended;
};

static struct control none;
static struct control *control = &none;

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

static void *find(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found)
        abort();
    return found;
}

/* Other libraries' constructors may be earlier than ours: whoever needs a real function asks for it here. */
static void find_all(void) {
    if (real_clock_gettime)
        return;
    real_fsync = (int (*)(int))find("fsync");
    real_fdatasync = (int (*)(int))find("fdatasync");
    real_clock_gettime = (int (*)(clockid_t, struct timespec *))find("clock_gettime");
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_CONTROL");
    int descriptor = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    find_all();
    if (descriptor < 0)
        return;
    void *page = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (page == MAP_FAILED)
        abort();
    control = page;
}

static int64_t read_control(int64_t *field) {
    return __atomic_load_n(field, __ATOMIC_RELAXED);
}

static int64_t monotonic_milliseconds(void) {
    struct timespec now;
    real_clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int faulty_sync(int (*real)(int), int descriptor) {
    int64_t began = monotonic_milliseconds(), error;
    int result = -1;
    __atomic_add_fetch(&control->syncs_begun, 1, __ATOMIC_RELAXED);
    /* In steps, so that a disk that got well again does not keep anybody waiting. */
    while (monotonic_milliseconds() - began < read_control(&control->sync_milliseconds))
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    error = read_control(&control->sync_error);
    if (error)
        errno = (int)error;
    else
        result = real(descriptor);
    __atomic_add_fetch(&control->syncs_ended, 1, __ATOMIC_RELAXED);
    return result;
}

int fsync(int descriptor) {
    find_all();
    return faulty_sync(real_fsync, descriptor);
}

int fdatasync(int descriptor) {
    find_all();
    return faulty_sync(real_fdatasync, descriptor);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result;
    int64_t milliseconds;
    find_all();
    result = real_clock_gettime(clock, now);
    milliseconds = read_control(&control->clock_milliseconds);
    if (result || !milliseconds || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return result;
    now->tv_sec += milliseconds / 1000;
    now->tv_nsec += milliseconds % 1000 * 1000000;
    if (now->tv_nsec < 0) {
        now->tv_nsec += 1000000000;
        now->tv_sec--;
    } else if (now->tv_nsec >= 1000000000) {
        now->tv_nsec -= 1000000000;
        now->tv_sec++;
    }
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone; /* obsolete: Linux does not set it either */
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *told) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (told)
        *told = precise.tv_sec;
    return precise.tv_sec;
}
