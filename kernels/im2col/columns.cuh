// columns: the layout of the columns, (groups, positions, ld_columns).
//
// The row of a position holds its taps, each tap the channels of the group, then a 1 that the
// product multiplies by the bias, then zero padding.

// Index of (position, tap, channel) in the columns.
__device__ inline index_t column_index(
        const Problem& problem, const ColumnLayout& layout, index_t position, int tap, int c) {
    const int group = fast_div(c, problem.by_group_channels);
    return (group * layout.positions + position) * layout.ld_columns + tap * problem.group_channels
            + (c - group * problem.group_channels);
}

// Write the tail of each column row of a position: the 1, then zero padding to the vector width.
__device__ inline void write_row_padding(
        const Problem& problem, const ColumnLayout& layout, index_t position, scalar_t* columns) {
    const int used = problem.taps * problem.group_channels;
    for (int k = used; k < layout.ld_columns; k += VECTOR) {
        Vector tail = zero_vector();
        tail.v[0] = k == used;
#pragma unroll 1
        for (int group = 0; group < problem.groups; ++group) {
            store_vector(
                    columns + (group * layout.positions + position) * layout.ld_columns + k, tail);
        }
    }
}
