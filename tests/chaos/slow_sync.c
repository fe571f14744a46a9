/*
 * A disk that is slow to confirm: fsync, fdatasync and msync wait before they do their work.
 *
 *     cc -shared -fPIC -O1 -o slow_sync.so slow_sync.c -ldl
 *     SLOW_SYNC=/path/to/a/file LD_PRELOAD=./slow_sync.so program
 *
 * The file holds the delay in microseconds, as text; it is read at each call, so the
 * delay can be changed while the program runs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void wait_as_told(void)
{
    char text[16] = {0};
    const char *path = getenv("SLOW_SYNC");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    long microseconds = got > 0 ? atol(text) : 0;
    struct timespec left = {microseconds / 1000000, microseconds % 1000000 * 1000};
    while (nanosleep(&left, &left) != 0)
        ;
}

int fsync(int file)
{
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}

int fdatasync(int file)
{
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(file);
}

int msync(void *start, size_t length, int flags)
{
    wait_as_told();
    return ((int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "msync"))(start, length, flags);
}
