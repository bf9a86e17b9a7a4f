/* Strings and code objects, each kept once.
 *
 * A code object is known by its address as long as its identity (hashes of names, first line, size) is
 * what it was: a freed code's address is used again by another. What is behind a new identity is
 * read (names, line table) and compared by content, so that a program which compiles the same
 * source over and over keeps one entry. The table of addresses is a cache: when it is full it is
 * emptied. Where the host tells that code objects have died (hk_exact_codes), one that was looked at since is what it was.
 *
 * When strings run short line tables are left out first (the last eighth is for names), then
 * names.
 */
#include <string.h>

#include "record/exact.h"
#include "record/internal.h"

#define FIRST_ADDRESSES 64u
#define MOST_ADDRESSES  (1u << 15)

uint32_t hk_rec_string(const void *text, size_t size)
{
    struct hk_rec_section *strings = &hk_rec.section[HK_SECTION_STRINGS];
    struct hk_rec_index *index = &hk_rec.strings;
    uint32_t hash, mask = index->capacity - 1;
    uint8_t *place;

    if (size == 0)
        return 0;
    hash = hk_rec_hash_bytes(text, size);
    if (index->capacity > 0) {
        for (uint32_t at = hash & mask; index->slots[at].entry != HK_REC_NONE;
             at = (at + 1) & mask) {
            uint64_t offset = index->slots[at].entry;
            if (index->slots[at].hash == hash && offset + size < strings->count &&
                memcmp(strings->data + offset, text, size) == 0 &&
                strings->data[offset + size] == '\0')
                return (uint32_t)offset;
        }
    }
    place = hk_rec_append(HK_SECTION_STRINGS, size + 1);
    if (!place) {
        if (hk_rec.stage == HK_REC_ON)
            hk_rec_limit(HK_LIMIT_STRINGS);
        return 0;
    }
    uint32_t offset = (uint32_t)(place - strings->data);
    memcpy(place, text, size);
    place[size] = '\0';
    hk_rec_publish(HK_SECTION_STRINGS, size + 1);
    hk_rec_index_add(index, hash, offset);
    return offset;
}

uint32_t hk_rec_text(const char *text)
{
    return text ? hk_rec_string(text, strlen(text)) : 0;
}

static uint32_t read_name(const void *address, int which)
{
    size_t size = hk_rec.source.name ? hk_rec.source.name(address, which, hk_rec.buffer, 4096) : 0;

    return hk_rec_string(hk_rec.buffer, size < 4096 ? size : 4096);
}

static void read_line_table(const void *address, struct hk_capture_code *code)
{
    const struct hk_rec_section *strings = &hk_rec.section[HK_SECTION_STRINGS];
    size_t size = 0;
    const uint8_t *table =
        hk_rec.source.line_table ? hk_rec.source.line_table(address, &size) : NULL;

    if (!table || size == 0)
        return;
    if (strings->count + size + 1 > strings->capacity / 8 * 7) {
        hk_rec_limit(HK_LIMIT_STRINGS);
        return;
    }
    code->line_table = hk_rec_string(table, size);
    code->line_table_size = code->line_table ? (uint32_t)size : 0;
}

uint32_t hk_rec_code_by_content(const struct hk_capture_code *content)
{
    struct hk_rec_index *index = &hk_rec.codes;
    struct hk_rec_section *codes = &hk_rec.section[HK_SECTION_CODES];
    uint32_t hash = hk_rec_hash_bytes(content, sizeof *content), mask = index->capacity - 1;
    struct hk_capture_code *place;

    if (index->capacity > 0) {
        for (uint32_t at = hash & mask; index->slots[at].entry != HK_REC_NONE;
             at = (at + 1) & mask) {
            uint32_t number = index->slots[at].entry;
            if (index->slots[at].hash == hash &&
                memcmp((struct hk_capture_code *)codes->data + number, content, sizeof *content) ==
                    0)
                return number;
        }
    }
    place = hk_rec_append(HK_SECTION_CODES, 1);
    if (!place || !hk_rec_index_add(index, hash, (uint32_t)codes->count))
        return 0;
    *place = *content;
    hk_rec_publish(HK_SECTION_CODES, 1);
    return (uint32_t)codes->count - 1;
}

static uint32_t read_code(const void *address, const struct hk_code_identity *identity)
{
    struct hk_capture_code code = {.first_line = identity->first_line, .prologue = identity->prologue};

    code.file = read_name(address, 0);
    code.name = read_name(address, 1);
    code.qualified_name = read_name(address, 2);
    read_line_table(address, &code);
    code.flags = hk_rec.source.is_trampoline && hk_rec.source.is_trampoline(address)
                     ? HK_CODE_TRAMPOLINE
                     : 0;
    if (hk_rec.source.counts_lines)
        code.flags |= HK_CODE_LINES;
    if (hk_rec.stage != HK_REC_ON)
        return 0;
    return hk_rec_code_by_content(&code);
}

static struct hk_rec_code_slot *find_address(struct hk_rec_code_slot *slots, uint32_t capacity,
                                             const void *address)
{
    uint32_t at =
        (uint32_t)(((uintptr_t)address >> 4) * 0x9e3779b97f4a7c15u >> 40) & (capacity - 1);

    while (slots[at].address && slots[at].address != address)
        at = (at + 1) & (capacity - 1);
    return &slots[at];
}

static bool grow_addresses(void)
{
    uint32_t old = hk_rec.address_capacity, capacity = old ? old * 2 : FIRST_ADDRESSES;
    struct hk_rec_code_slot *slots =
        old < MOST_ADDRESSES ? hk_rec_map(capacity * sizeof *slots) : NULL;

    if (!slots && old > 0) {
        memset(hk_rec.addresses, 0, old * sizeof *slots);
        hk_rec.address_used = 0;
        return true;
    }
    if (!slots) {
        hk_rec_limit(HK_LIMIT_MEMORY);
        return false;
    }
    for (uint32_t i = 0; i < old; i++)
        if (hk_rec.addresses[i].address)
            *find_address(slots, capacity, hk_rec.addresses[i].address) = hk_rec.addresses[i];
    hk_rec_unmap(hk_rec.addresses, old * sizeof *slots);
    hk_rec.addresses = slots;
    hk_rec.address_capacity = capacity;
    return true;
}

uint32_t hk_rec_code(const void *address)
{
    struct hk_code_identity identity = {0};
    struct hk_rec_code_slot *slot;
    uint32_t code, codes = hk_exact_codes();

    if (hk_rec.exact && hk_rec.address_capacity > 0) { /* who dies is told */
        slot = find_address(hk_rec.addresses, hk_rec.address_capacity, address);
        if (slot->address && slot->codes == codes)
            return slot->code;
    }
    if (hk_rec.source.identify)
        hk_rec.source.identify(address, &identity);
    if (HK_UNLIKELY(hk_rec.address_used >= hk_rec.address_capacity / 2) && !grow_addresses())
        return 0;
    slot = find_address(hk_rec.addresses, hk_rec.address_capacity, address);
    if (HK_LIKELY(slot->address && hk_same_code(&slot->identity, &identity))) {
        slot->codes = codes;
        return slot->code;
    }
    code = read_code(address, &identity);
    if (code == 0)
        return 0; /* not kept: the next one may find room by its content */
    if (!slot->address) {
        slot->address = address;
        hk_rec.address_used++;
    }
    slot->identity = identity;
    slot->code = code;
    slot->codes = codes;
    return code;
}
