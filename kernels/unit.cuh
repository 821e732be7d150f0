// unit: the channels that a thread of a direct kernel takes, whole groups and whole vectors.
//
// A group has GROUP_IN channels of the input and GROUP_OUT of the output, a few of each. The packed
// weight is (GROUP_IN, taps, O): what it holds for (i, tap, o) meets channel i of the group of o.

const int UNIT_IN = VECTOR > GROUP_IN ? VECTOR : GROUP_IN;
const int UNIT_OUT = UNIT_IN / GROUP_IN * GROUP_OUT;

struct In { acc_t v[UNIT_IN]; };
struct Out { acc_t v[UNIT_OUT]; };

// Which channel of the unit is channel i of the group of o.
__device__ inline int partner_of(int o, int i) { return o / GROUP_OUT * GROUP_IN + i; }

// The unit's run of an array whose last axis is O, in vectors if it is made of them.
__device__ inline Out load_out(const scalar_t* from) {
    const int step = UNIT_OUT % VECTOR == 0 ? VECTOR : 1;
    Out result;
    for (int o = 0; o < UNIT_OUT; o += step) {
        if (step == VECTOR) {
            const Vector part = load_vector(from + o);
            for (int i = 0; i < VECTOR; ++i) {
                result.v[(o + i) % UNIT_OUT] = part.v[i];
            }
        } else {
            result.v[o] = to_acc(from[o]);
        }
    }
    return result;
}

__device__ inline Out weight_of(
        const Launch& p, const scalar_t* __restrict__ weight, int i, int tap, int unit) {
    const int row = i * p.taps + tap;
    return load_out(weight + static_cast<index_t>(row) * p.g.out_channels + unit * UNIT_OUT);
}

// The unit's channels of a sample; c counts from the first of the offset group.
__device__ inline In sample_unit(
        const Launch& p, const Plan& plan, const scalar_t* __restrict__ input, int c) {
    In result;
    for (int k = 0; k < UNIT_IN; k += VECTOR) {
        const Vector part = sample_value(p, plan, input, c + k);
        for (int i = 0; i < VECTOR; ++i) {
            result.v[k + i] = part.v[i];
        }
    }
    return result;
}

// Plan a sample by its parts.
__device__ inline Plan plan_sample(
        const Launch& p, const scalar_t* __restrict__ offset, const scalar_t* __restrict__ mask,
        index_t position, int tap, int og) {
    const Place at = place_at(p, position, tap, og);
    return plan_of(p, sample_of(p, offset, mask, at), at);
}
