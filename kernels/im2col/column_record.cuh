// column_record: sample records of kernels that read or write columns.

// The record of a sample, with its column index.
__device__ inline SampleRecord make_column_record(
        const Sampling& sampling, const ColumnLayout& layout, const Sample& s, SampleIndex index) {
    SampleRecord record = make_record(sampling, s, index);
    if (sampling.problem.spans_groups) {
        record.column_index = index.position * layout.ld_columns
                + index.tap * sampling.problem.group_channels + record.first_channel;
    } else {
        record.column_index = column_index(
                sampling.problem, layout, index.position, index.tap, record.first_channel);
    }
    return record;
}

// Index in the columns of channel c of a record, counted from the first of its offset group. If an
// offset group spans several groups, record.column_index is that of a convolution of one group.
__device__ inline index_t record_column(
        const Problem& problem, const ColumnLayout& layout, const SampleRecord& record, int c) {
    index_t column = record.column_index + c;
    if (problem.spans_groups) {
        const int group = fast_div(record.first_channel + c, problem.by_group_channels);
        column += group * (layout.positions * layout.ld_columns - problem.group_channels);
    }
    return column;
}

// Write the tail of each column row of a position, by its first sample only.
__device__ inline void write_row_padding_once(
        const Problem& problem, const ColumnLayout& layout, SampleIndex index, scalar_t* columns) {
    if (index.tap == 0 && index.offset_group == 0) {
        write_row_padding(problem, layout, index.position, columns);
    }
}
