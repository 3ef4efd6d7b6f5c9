/* elf.c: the part of a dynamic linker that model.so needs, for libraries made for glibc and for
 * Android alike. Numbers: ELF for the Arm 64-bit Architecture (aaelf64). */
#include "elf.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ABS64 = 257, GLOB_DAT = 1025, JUMP_SLOT = 1026, RELATIVE = 1027 };
enum { PAGE = 65536, MAX_SEGMENTS = 16 };

struct library {
  const unsigned char *file;
  uint64_t file_bytes;
  unsigned char *base; /* where address 0 of the library is */
  uint64_t span;
  Elf64_Phdr loads[MAX_SEGMENTS];
  int n_loads;
  const Elf64_Dyn *dynamic;
  const Elf64_Sym *symbols;
  const char *strings;
  uint32_t n_symbols;
};

static library only;

static uint64_t up(uint64_t value) { return (value + PAGE - 1) / PAGE * PAGE; }

static const char *read_file(library *lib, const char *path) {
  struct stat status;
  int descriptor = open(path, O_RDONLY | O_CLOEXEC);
  if (descriptor < 0 || fstat(descriptor, &status) != 0) return "can't be opened";
  lib->file_bytes = (uint64_t)status.st_size;
  void *file = mmap(NULL, lib->file_bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
  close(descriptor);
  if (file == MAP_FAILED) return "can't be mapped";
  lib->file = file;
  return NULL;
}

static const char *read_headers(library *lib) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)lib->file;
  if (lib->file_bytes < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) ||
      header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB)
    return "is not a 64-bit ELF file";
  if (header->e_machine != EM_AARCH64 || header->e_type != ET_DYN)
    return "is not a shared library for AArch64";
  uint64_t table = header->e_phnum * (uint64_t)sizeof(Elf64_Phdr);
  if (header->e_phoff > lib->file_bytes || table > lib->file_bytes - header->e_phoff)
    return "is cut off";
  const Elf64_Phdr *rows = (const Elf64_Phdr *)(lib->file + header->e_phoff);
  for (int i = 0; i < header->e_phnum; i++) {
    if (rows[i].p_type == PT_TLS) return "has thread-local variables";
    if (rows[i].p_type == PT_DYNAMIC) lib->dynamic = (const Elf64_Dyn *)rows[i].p_vaddr;
    if (rows[i].p_type != PT_LOAD) continue;
    if (lib->n_loads == MAX_SEGMENTS) return "has too many segments";
    if (rows[i].p_offset > lib->file_bytes ||
        rows[i].p_filesz > lib->file_bytes - rows[i].p_offset ||
        rows[i].p_filesz > rows[i].p_memsz)
      return "is cut off";
    lib->loads[lib->n_loads++] = rows[i];
    if (rows[i].p_vaddr + rows[i].p_memsz > lib->span)
      lib->span = rows[i].p_vaddr + rows[i].p_memsz;
  }
  return lib->dynamic && lib->n_loads ? NULL : "has no dynamic section";
}

static const char *map_segments(library *lib) {
  void *base = mmap(NULL, up(lib->span), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return "doesn't fit into memory";
  lib->base = base;
  for (int i = 0; i < lib->n_loads; i++)
    memcpy(lib->base + lib->loads[i].p_vaddr, lib->file + lib->loads[i].p_offset,
           lib->loads[i].p_filesz);
  lib->dynamic = (const Elf64_Dyn *)(lib->base + (uint64_t)lib->dynamic);
  return NULL;
}

static uint64_t dynamic_value(const library *lib, int64_t tag) {
  for (const Elf64_Dyn *row = lib->dynamic; row->d_tag != DT_NULL; row++)
    if (row->d_tag == tag) return row->d_un.d_val;
  return 0;
}

static const char *relocate(library *lib, uint64_t table, uint64_t bytes, char *note, int size) {
  const Elf64_Rela *rows = (const Elf64_Rela *)(lib->base + table);
  for (uint64_t i = 0; i < bytes / sizeof *rows; i++) {
    const Elf64_Sym *symbol = &lib->symbols[ELF64_R_SYM(rows[i].r_info)];
    uint64_t value = (uint64_t)lib->base + rows[i].r_addend, kind = ELF64_R_TYPE(rows[i].r_info);
    if (kind == ABS64 || kind == GLOB_DAT || kind == JUMP_SLOT) {
      const char *name = lib->strings + symbol->st_name;
      uint64_t address = symbol->st_shndx ? (uint64_t)lib->base + symbol->st_value
                                          : (uint64_t)find_import(name);
      if (!address && ELF64_ST_BIND(symbol->st_info) != STB_WEAK) {
        snprintf(note, (size_t)size, "needs the function '%s', which dse-emulate lacks", name);
        return note;
      }
      value = address + rows[i].r_addend;
    } else if (kind != RELATIVE) {
      snprintf(note, (size_t)size, "has a relocation of unknown type %u", (unsigned)kind);
      return note;
    }
    memcpy(lib->base + rows[i].r_offset, &value, sizeof value);
  }
  return NULL;
}

static const char *link_imports(library *lib, char *note, int size) {
  uint64_t hash = dynamic_value(lib, DT_HASH);
  if (!hash || dynamic_value(lib, DT_RELR)) return "has tables that dse-emulate can't read";
  lib->n_symbols = ((const uint32_t *)(lib->base + hash))[1];
  lib->symbols = (const Elf64_Sym *)(lib->base + dynamic_value(lib, DT_SYMTAB));
  lib->strings = (const char *)(lib->base + dynamic_value(lib, DT_STRTAB));
  const char *wrong =
      relocate(lib, dynamic_value(lib, DT_RELA), dynamic_value(lib, DT_RELASZ), note, size);
  if (wrong) return wrong;
  return relocate(lib, dynamic_value(lib, DT_JMPREL), dynamic_value(lib, DT_PLTRELSZ), note, size);
}

/* Down to what each segment allows, so that a stray write is found here and not on the board. */
static const char *protect(const library *lib) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  for (int i = 0; i < lib->n_loads; i++) {
    const Elf64_Phdr *load = &lib->loads[i];
    if (load->p_flags & PF_W) continue;
    uint64_t start = load->p_vaddr / page * page;
    int access = PROT_READ | (load->p_flags & PF_X ? PROT_EXEC : 0);
    if (mprotect(lib->base + start, load->p_vaddr + load->p_memsz - start, access) != 0)
      return "can't be made executable";
  }
  __builtin___clear_cache((char *)lib->base, (char *)lib->base + lib->span);
  return NULL;
}

static void initialize(const library *lib) {
  uint64_t count = dynamic_value(lib, DT_INIT_ARRAYSZ) / sizeof(void *);
  void (**functions)(void) = (void (**)(void))(lib->base + dynamic_value(lib, DT_INIT_ARRAY));
  for (uint64_t i = 0; i < count; i++) functions[i]();
}

const library *load_library(const char *path, char *error, int size) {
  char note[160];
  const char *wrong = read_file(&only, path);
  if (!wrong) wrong = read_headers(&only);
  if (!wrong) wrong = map_segments(&only);
  if (!wrong) wrong = link_imports(&only, note, sizeof note);
  if (!wrong) wrong = protect(&only);
  if (!wrong) {
    initialize(&only);
    return &only;
  }
  snprintf(error, (size_t)size, "%s %s", path, wrong);
  return NULL;
}

void *find_symbol(const library *lib, const char *name) {
  for (uint32_t i = 1; i < lib->n_symbols; i++)
    if (lib->symbols[i].st_shndx && strcmp(lib->strings + lib->symbols[i].st_name, name) == 0)
      return lib->base + lib->symbols[i].st_value;
  return NULL;
}
