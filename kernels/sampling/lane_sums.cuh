// lane_sums: corner dots, summed over the lanes of a group by shuffles. All threads of a warp take
// part.

// The sum of one corner's dots over a lane group of fewer than CORNERS lanes, in every lane.
__device__ inline acc_t sum_over_few_lanes(int lanes, acc_t dot) {
    for (int distance = 1; distance < CORNERS / 2; distance *= 2) {
        if (distance < lanes) {
            dot += __shfl_xor_sync(0xffffffff, dot, distance);
        }
    }
    return dot;
}

// In a group of CORNERS lanes or more: the sum of the dots of corner `lane % CORNERS`.
//
// Lanes at distance 1, then 2, and so on, exchange half of their partial sums. After as many
// exchanges as there are axes, lane l holds the sum of corner l % CORNERS alone, and the other
// distances reduce one number instead of CORNERS.
__device__ inline acc_t sum_of_own_corner(int lanes, int lane, const acc_t* dots) {
    acc_t partial[CORNERS];
    for (int j = 0; j < CORNERS; ++j) {
        partial[j] = dots[j];
    }
    for (int distance = 1; distance < CORNERS; distance *= 2) {
        const bool upper = lane & distance;
        for (int k = 0; k < CORNERS / 2 / distance; ++k) {
            const acc_t mine = upper ? partial[2 * k + 1] : partial[2 * k];
            const acc_t sent = upper ? partial[2 * k] : partial[2 * k + 1];
            partial[k] = mine + __shfl_xor_sync(0xffffffff, sent, distance);
        }
    }
    acc_t sum = partial[0];
#pragma unroll
    for (int distance = CORNERS; distance < 32; distance *= 2) {
        if (distance < lanes) {
            sum += __shfl_xor_sync(0xffffffff, sum, distance);
        }
    }
    return sum;
}
