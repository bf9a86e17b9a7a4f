/* The geometry: how large arenas, pools and blocks are. One table of constants for each that there is; the heap and
 * what reads its structures are compiled once for each, since the fast paths need numbers and not variables.
 *
 *                    default             guide
 *      arena         1 MiB               256 KiB           64 pools in both: one bit each in a word
 *      pool          16 KiB              4 KiB
 *      blocks        16 ... 4096 bytes   8 ... 512 bytes
 *      classes       52, every 16 bytes  64, every 8 bytes
 *                    to 512, then wider
 *      aligned to    16                  16; or 8, where a heap asks for it
 *
 * "default" is what measured best. "guide" (-DHK_GEOMETRY_GUIDE) is the one that guides to CPython's memory management
 * draw, CPython's own until 3.7; see docs/heap.md. Everything else is the same code.
 *
 * Alignment. A heap aligns its blocks to 16 bytes, as C's malloc does, or to 8, as CPython did until 3.7. An object whose
 * size is no multiple of 16 cannot need 16 (but for structures that end in an array of bytes). So a heap of 8 aligns a
 * block to 16 where the requested size is a multiple of 16, and to 8 elsewhere: pools start on a page, so
 * the blocks of every other class are 16-aligned by themselves. A heap of 16 in the guide's geometry leaves the
 * classes in between alone: hk_class_step. In the default geometry every class is a multiple of 16, and 8 means 16. */
#ifndef HK_HEAP_GEOMETRY_H
#define HK_HEAP_GEOMETRY_H

#define HK_ARENA_POOLS 64
#define HK_ALIGNMENT 16u           /* of C's malloc; of a heap that was not asked for less */
#define HK_ALIGNMENT_MAX 16384u    /* that hk_aligned_alloc takes */
#define HK_SMALL_MAX 512u          /* up to here: a class every HK_STEP bytes */

#ifdef HK_GEOMETRY_GUIDE

#define HK_GEOMETRY_NAME "guide"
#define hk_region hk_guide_region /* so that rooms that were compiled for different geometries do not link */
#define HK_POOL_SHIFT 12
#define HK_STEP 8u
#define HK_BLOCK_MAX 512u
#define HK_CLASSES 65 /* class 0 is "none" */
/* A pool is one page, so carving saves no pages; but what is carved is written to, and a pool shows its untouched blocks. */
#define HK_CARVE_BYTES 512u

#else

#define HK_GEOMETRY_NAME "default"
/* Pools of 64 KiB measured 1 % faster and cost a small program 1 MB: each class keeps what its pools do not use. */
#define HK_POOL_SHIFT 14
#define HK_STEP 16u
#define HK_BLOCK_MAX 4096u /* from pools. Programs gain until 2 KiB (regex), memory is lost from 4 KiB */
#define HK_CLASSES 53      /* class 0 is "none" */
#define HK_CARVE_BYTES 4096u

#endif

#define HK_POOL_SIZE ((size_t)1 << HK_POOL_SHIFT)
#define HK_ARENA_SIZE (HK_POOL_SIZE * HK_ARENA_POOLS)

#endif
