/* Rows of a product by what is 0 along their depth.
 *
 * In: the borders of a product's left operand (FlamecBorder). Out: kinds of rows of which each goes
 * through the same part of the depth, so that zeros around an image are not multiplied.
 *
 * Invariant: results are as if the zeros were multiplied. A row's kind depends on the row alone, and
 * of a panel with an infinity or NaN, which a zero makes NaN, all of the depth is multiplied. */
enum {
    MOST_RANGES = 12,   /* of a border */
    MOST_KINDS = 64,
    MOST_INDICES = 512, /* of a loop over rows that meets a border */
};
#define WORTH_KINDS 0.94 /* of the work, if no more is left */

/* Where a step along the depth finds its row of the left operand and of the panel. */
typedef struct Step {
    int64_t left, panel;
} Step;

/* The parts of a loop along the depth that indices of a loop over rows leave, and which each leaves. */
typedef struct Ranges {
    int64_t count, low[MOST_RANGES], high[MOST_RANGES];
    uint8_t number[MOST_INDICES];
} Ranges;

typedef struct Kinds {
    int64_t count, borders;
    Ranges ranges[FLAMEC_MOST_BORDERS];
} Kinds;

/* Rows in the order of their kinds, cut into tiles. */
typedef struct Tiles {
    int64_t first_row, rows, count;
    int order[CHUNK], heights[CHUNK], kind[CHUNK];
    int64_t down[CHUNK];
} Tiles;

static int64_t steps_below(int64_t bound, int64_t step) {
    return bound <= 0 ? 0 : (bound + step - 1) / step;
}

/* Whether there are few enough ranges. `part`: of the loop along the depth, the average of what they leave. */
static int find_ranges(Ranges *ranges, const FlamecProduct *p, const FlamecBorder *border,
                       double *part) {
    const int64_t indices = p->left.free.size[border->row];
    const int64_t size = p->left.depth.size[border->along];
    int64_t left = 0;
    ranges->count = 0;
    if (indices > MOST_INDICES) return 0;
    for (int64_t i = 0; i < indices; i++) {
        const int64_t at = i * border->row_step;
        int64_t high = least(size, steps_below(border->high - at, border->step)), n = 0;
        int64_t low = steps_below(border->low - at, border->step);
        if (low >= high) low = high = 0;
        left += high - low;
        while (n < ranges->count && (ranges->low[n] != low || ranges->high[n] != high)) n++;
        if (n == MOST_RANGES) return 0;
        ranges->low[n] = low;
        ranges->high[n] = high;
        ranges->count = n == ranges->count ? n + 1 : ranges->count;
        ranges->number[i] = (uint8_t)n;
    }
    *part *= (double)left / (double)(indices * size);
    return 1;
}

/* All rows are of one kind where there would be many kinds for little. */
static void find_kinds(Kinds *kinds, const FlamecProduct *p) {
    double part = 1;
    kinds->count = 1;
    kinds->borders = p->rows && p->depth ? p->borders : 0;
    for (int64_t b = 0; b < kinds->borders; b++) {
        const int found = find_ranges(kinds->ranges + b, p, p->border + b, &part);
        kinds->count *= kinds->ranges[b].count;
        if (!found || kinds->count > MOST_KINDS) part = 1;
        if (part == 1) break;
    }
    if (part <= WORTH_KINDS) return;
    kinds->count = 1;
    kinds->borders = 0;
}

/* The next index of nested loops. */
static void count_on(const FlamecLoops *loops, int64_t *index) {
    for (int64_t i = loops->count - 1; i >= 0; i--) {
        if (++index[i] < loops->size[i]) return;
        index[i] = 0;
    }
}

static void start_at(const FlamecLoops *loops, int64_t *index, int64_t first) {
    for (int64_t i = loops->count - 1; i >= 0; i--) {
        index[i] = first % loops->size[i];
        first /= loops->size[i];
    }
}

/* The kinds of rows from `first` on. */
static void kinds_of(uint8_t *to, const Kinds *kinds, const FlamecProduct *p, int64_t first,
                     int64_t rows) {
    const FlamecLoops *loops = &p->left.free;
    const int64_t last = loops->count - 1;
    int64_t index[FLAMEC_MOST_LOOPS];
    start_at(loops, index, first);
    for (int64_t i = 0; i < rows;) {
        const int64_t more = least(rows - i, loops->size[last] - index[last]);
        const uint8_t *inner = 0;
        int64_t outer = 0, weight = 1, inner_weight = 0;
        for (int64_t b = kinds->borders - 1; b >= 0; b--) {
            const Ranges *ranges = kinds->ranges + b;
            if (p->border[b].row == last) {
                inner = ranges->number + index[last];
                inner_weight = weight;
            } else
                outer += weight * ranges->number[index[p->border[b].row]];
            weight *= ranges->count;
        }
        for (int64_t k = 0; k < more; k++)
            to[i + k] = (uint8_t)(inner ? outer + inner[k] * inner_weight : outer);
        i += more;
        index[last] += more - 1;
        count_on(loops, index);
    }
}

/* Rows from `first` on, unless they are arranged already. */
static void arrange(Tiles *tiles, const Kinds *kinds, const FlamecProduct *p, int64_t first,
                    int64_t rows) {
    if (tiles->rows == rows && tiles->first_row == first) return;
    tiles->first_row = first;
    tiles->rows = rows;
    if (kinds->count == 1) {
        tiles->count = divide(tiles->heights, rows);
        for (int64_t i = 0; i < tiles->count; i++) tiles->kind[i] = 0;
        for (int64_t i = 0; i < rows; i++) tiles->order[i] = (int)i;
        places(tiles->down, &p->left.free, first, rows);
        return;
    }
    int64_t from[MOST_KINDS + 1] = {0}, place[CHUNK];
    uint8_t kind[CHUNK];
    places(place, &p->left.free, first, rows);
    kinds_of(kind, kinds, p, first, rows);
    for (int64_t i = 0; i < rows; i++) from[kind[i] + 1]++;
    tiles->count = 0;
    for (int64_t k = 0; k < kinds->count; k++) {
        const int64_t new = divide(tiles->heights + tiles->count, from[k + 1]);
        for (int64_t i = 0; i < new; i++) tiles->kind[tiles->count++] = (int)k;
        from[k + 1] += from[k];
    }
    for (int64_t i = 0; i < rows; i++) {
        const int64_t to = from[kind[i]]++;
        tiles->order[to] = (int)i;
        tiles->down[to] = place[i];
    }
}

/* The steps along some depth, from `level` on, of rows of a kind; `all`: also where they are 0. */
static int64_t steps_of(Step *steps, const Kinds *kinds, const FlamecProduct *p, int64_t kind,
                        const int64_t *along, int64_t level, int64_t depth, int all) {
    int64_t index[FLAMEC_MOST_LOOPS], low[FLAMEC_MOST_BORDERS], high[FLAMEC_MOST_BORDERS];
    int64_t count = 0;
    for (int64_t b = kinds->borders - 1; b >= 0; b--) {
        const Ranges *ranges = kinds->ranges + b;
        low[b] = ranges->low[kind % ranges->count];
        high[b] = ranges->high[kind % ranges->count];
        kind /= ranges->count;
    }
    start_at(&p->left.depth, index, level);
    for (int64_t l = 0; l < depth; l++) {
        int inside = 1;
        for (int64_t b = 0; b < kinds->borders; b++) {
            const int64_t at = index[p->border[b].along];
            inside &= all || (at >= low[b] && at < high[b]);
        }
        steps[count].left = along[l];
        steps[count].panel = l;
        count += inside;
        if (kinds->borders) count_on(&p->left.depth, index);
    }
    return count;
}
