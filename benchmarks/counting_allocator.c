/* Counts the bytes of large blocks that a process has, and the most that it had.
 *
 * Preloaded (LD_PRELOAD), it stands before malloc and mmap of the C library. Blocks of LARGE bytes
 * and more are counted, from whichever library they are asked for; smaller ones belong to Python
 * objects. What the C library maps for itself (stacks, its own heaps) is not seen.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LARGE 65536

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
void __libc_free(void *);

#define MAPS 4096

static _Atomic long live, most;
static struct {
    uintptr_t start, end;
} map[MAPS]; /* the counted pages */
static pthread_mutex_t mapping = PTHREAD_MUTEX_INITIALIZER;

static void add(long bytes) {
    const long now = atomic_fetch_add(&live, bytes) + bytes;
    long before = atomic_load(&most);
    while (now > before && !atomic_compare_exchange_weak(&most, &before, now)) {}
}

static void *counted(void *block) {
    const long bytes = block ? (long)malloc_usable_size(block) : 0;
    if (bytes >= LARGE) add(bytes);
    return block;
}

static void forget(void *block) {
    const long bytes = block ? (long)malloc_usable_size(block) : 0;
    if (bytes >= LARGE) atomic_fetch_sub(&live, bytes);
}

long counted_bytes(void) { return atomic_load(&live); }
long most_counted_bytes(void) { return atomic_load(&most); }
void count_again(void) { atomic_store(&most, atomic_load(&live)); }

void *malloc(size_t size) { return counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    *block = memalign(alignment, size);
    return *block ? 0 : ENOMEM;
}

void *realloc(void *block, size_t size) {
    forget(block);
    void *moved = __libc_realloc(block, size);
    counted(moved ? moved : (size ? block : NULL));
    return moved;
}

void free(void *block) {
    forget(block);
    __libc_free(block);
}

/* OpenBLAS maps a buffer of 32 MiB for each thread, keeps it, and touches little of it. */
static int is_for_blas(void *caller) {
    Dl_info from;
    return dladdr(caller, &from) && from.dli_fname && strstr(from.dli_fname, "openblas");
}

/* Call with ``mapping`` held. */
static void remember(uintptr_t start, uintptr_t end) {
    for (int i = 0; start < end && i < MAPS; i++) {
        if (map[i].end) continue;
        map[i].start = start;
        map[i].end = end;
        add((long)(end - start));
        break;
    }
}

static void *map_pages(
    void *address, size_t size, int protection, int flags, int file, off_t offset, void *caller
) {
    void *pages = (void *)syscall(SYS_mmap, address, size, protection, flags, file, offset);
    if (pages == MAP_FAILED || file >= 0 || size < LARGE) return pages;
    if (is_for_blas(caller)) return pages;
    pthread_mutex_lock(&mapping);
    remember((uintptr_t)pages, (uintptr_t)pages + size);
    pthread_mutex_unlock(&mapping);
    return pages;
}

void *mmap(void *address, size_t size, int protection, int flags, int file, off_t offset) {
    void *caller = __builtin_return_address(0);
    return map_pages(address, size, protection, flags, file, offset, caller);
}

void *mmap64(void *address, size_t size, int protection, int flags, int file, off_t offset) {
    void *caller = __builtin_return_address(0);
    return map_pages(address, size, protection, flags, file, offset, caller);
}

/* Parts of what was mapped at once may be given back by themselves. */
int munmap(void *address, size_t size) {
    pthread_mutex_lock(&mapping);
    const int failed = (int)syscall(SYS_munmap, address, size);
    const uintptr_t first = (uintptr_t)address, last = first + size;
    for (int i = 0; !failed && i < MAPS; i++) {
        const uintptr_t start = map[i].start, end = map[i].end;
        if (end <= first || last <= start) continue;
        atomic_fetch_sub(&live, (long)(end - start));
        map[i].start = map[i].end = 0;
        remember(start, first);
        remember(last, end);
    }
    pthread_mutex_unlock(&mapping);
    return failed;
}
