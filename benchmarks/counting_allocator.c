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
#include <stdatomic.h>
#include <stddef.h>
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
static void *_Atomic map[MAPS]; /* the counted pages */

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

static void *map_pages(
    void *address, size_t size, int protection, int flags, int file, off_t offset, void *caller
) {
    void *pages = (void *)syscall(SYS_mmap, address, size, protection, flags, file, offset);
    if (pages == MAP_FAILED || file >= 0 || size < LARGE) return pages;
    if (is_for_blas(caller)) return pages;
    for (int i = 0; i < MAPS; i++) {
        void *none = NULL;
        if (atomic_compare_exchange_strong(&map[i], &none, pages)) {
            add((long)size);
            break;
        }
    }
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

int munmap(void *address, size_t size) {
    const int failed = (int)syscall(SYS_munmap, address, size);
    for (int i = 0; !failed && size >= LARGE && i < MAPS; i++) {
        void *same = address;
        if (atomic_compare_exchange_strong(&map[i], &same, NULL)) {
            atomic_fetch_sub(&live, (long)size);
            break;
        }
    }
    return failed;
}
