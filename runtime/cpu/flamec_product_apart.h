/* Products cut into chunks of rows, and those whose results are not row-major, for the numbers of
 * flamec_product_loops.h.
 *
 * In: a product whose right operand is copied. Out: the same bits as in one piece. A chunk goes
 * through all of the depth before the next one, so that what it reads and sums up stays near; where
 * rows of the result are neighbours in memory (channels first), the sums of a chunk are transposed
 * when they are done. */

/* Copies sums [rows, step] to where the product's rows and columns go. */
static void NAME(put)(const FlamecProduct *p, const SCALAR *sums, int64_t step, int64_t row,
                      int64_t rows, int64_t column, int64_t columns) {
    enum { MOST = COLUMNS * sizeof(float) / sizeof(SCALAR) };
    int64_t down[CHUNK], across[MOST];
    places(down, &p->down, row, rows);
    places(across, &p->across, column, columns);
    for (int64_t i = 0, run; i < rows; i += run) {
        for (run = 1; run < NAME(LANES) && i + run < rows && down[i + run] == down[i] + run;) run++;
        SCALAR *to = (SCALAR *)p->result + down[i];
        for (int64_t j = 0; j < columns; j += NAME(LANES)) {
            const int64_t count = least(NAME(LANES), columns - j);
            NAME(lanes) x[NAME(LANES)];
#pragma GCC unroll 16
            for (int k = 0; k < NAME(LANES); k++)
                x[k] = *(const NAME(lanes) *)(sums + (i + least(k, run - 1)) * step + j);
            NAME(transpose)(x);
            for (int64_t k = 0; k < count; k++)
                __builtin_prefetch(to + across[j + k] + NAME(LANES), 1);
            if (run == NAME(LANES) && count == NAME(LANES)) {
#pragma GCC unroll 16
                for (int k = 0; k < NAME(LANES); k++) *(NAME(unaligned) *)(to + across[j + k]) = x[k];
            } else
                for (int64_t k = 0; k < count; k++)
                    for (int64_t l = 0; l < run; l++)
                        to[across[j + k] + l] = ((const SCALAR *)(x + k))[l];
        }
    }
}

/* Rows of chunks as equal as may be. */
static int64_t chunk_of(int64_t rows, int64_t most) {
    const int64_t chunks = (rows + most - 1) / most;
    return chunks ? ((rows + chunks - 1) / chunks + ROWS - 1) / ROWS * ROWS : 1;
}

/* With FLAMEC_PRODUCT_MEMORY bytes of private memory. */
static void NAME(product_in_chunks)(const FlamecProduct *p, void *memory) {
    enum { MOST = COLUMNS * sizeof(float) / sizeof(SCALAR) };
    const int apart = !p->step;
    if (!apart && (!NAME(is_resident)(p) || p->rows <= CHUNK)) {
        NAME(packed_product)(p, memory, 0);
        return;
    }
    SCALAR *sums = (SCALAR *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    sums = (SCALAR *)((char *)sums + PANELS_MEMORY);
    for (int64_t column = 0; column < p->columns;) {
        FlamecProduct part = *p;
        part.columns = apart ? least(MOST, p->columns - column) : p->columns;
        part.first_column += column;
        const int64_t step = (part.columns + NAME(LANES) - 1) / NAME(LANES) * NAME(LANES);
        const int64_t most = least(CHUNK, SUMS / (int64_t)sizeof(SCALAR) / step / ROWS * ROWS);
        const int64_t height = chunk_of(p->rows, apart ? most : CHUNK);
        if (apart) part.step = step;
        for (int64_t row = 0; row < p->rows; row += height) {
            part.first_row = p->first_row + row;
            part.rows = least(height, p->rows - row);
            part.result = apart ? sums : (SCALAR *)p->result + row * p->step;
            NAME(packed_product)(&part, memory, row > 0);
            if (apart)
                NAME(put)(p, sums, step, part.first_row, part.rows, part.first_column, part.columns);
        }
        column += part.columns;
    }
}
