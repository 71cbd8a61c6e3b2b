// Operations of the training pass on a CPU, each with its gradient, as loops that the compiler vectorises.
//
// Tensors are contiguous and channels-last, (B, H, W, C). Activations are bfloat16, as matrix instructions take them;
// what carries a picture from layer to layer (residual sums, latents, means, scales) stays float32.

#include <torch/extension.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using Tensors = torch::autograd::variable_list;
using Bf16 = std::uint16_t; // the bits of a bfloat16: the upper half of a float32's
using Index = std::int64_t;

constexpr float LEAK = 0.01f;            // slope of leaky ReLU
constexpr float ACTIVATION_MAX = 127.0f; // of the entropy path
constexpr float LOG2_E = 1.44269504088896f;
constexpr float INVERSE_SQRT_PI = 0.564189583547756f;
constexpr float LIKELIHOOD_MIN = 1.0f / (1 << 18);
constexpr int PHASES[4][2] = {{0, 0}, {1, 1}, {0, 1}, {1, 0}}; // as in entropy/grid.py

inline float to_float(Bf16 value) {
    const std::uint32_t bits = std::uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

inline Bf16 to_bf16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return Bf16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16); // to nearest, ties to even
}

Bf16* halves(const Tensor& t) { return reinterpret_cast<Bf16*>(t.data_ptr<at::BFloat16>()); }
float* floats(const Tensor& t) { return t.data_ptr<float>(); }

Tensor like(const Tensor& t, at::ScalarType type) { return torch::empty(t.sizes(), t.options().dtype(type)); }

// Calls body(i) for every element; `body` must not depend on the order.
template <typename Body> inline void each(Index count, Body body) {
#pragma omp simd
    for (Index i = 0; i < count; i++) body(i);
}

Tensor rounded(const Tensor& x) { // contiguous bfloat16
    if (x.scalar_type() == at::kBFloat16) return x.contiguous();
    const Tensor from = x.contiguous(), to = like(from, at::kBFloat16);
    const float* source = floats(from);
    Bf16* target = halves(to);
    each(from.numel(), [=](Index i) { target[i] = to_bf16(source[i]); });
    return to;
}

Tensor sum_of_rows(const Tensor& x, Index channels) { // bfloat16 (..., C) -> float32 (C,)
    const Tensor sums = torch::zeros({channels}, x.options().dtype(at::kFloat));
    float* sum = floats(sums);
    const Bf16* row = halves(x);
    for (Index n = x.numel() / channels; n > 0; n--, row += channels)
        each(channels, [=](Index c) { sum[c] += to_float(row[c]); });
    return sums;
}

struct Shape {
    Index batch, height, width, channels;
    explicit Shape(const Tensor& x) : batch(x.size(0)), height(x.size(1)), width(x.size(2)), channels(x.size(3)) {}
    Index positions() const { return batch * height * width; }
};

// Calls body(position, neighbour, tap) for each position and each of the nine taps of a 3×3 window inside the picture.
template <typename Start, typename Body, typename End> void windows(const Shape& s, Start start, Body body, End end) {
    for (Index n = 0; n < s.batch; n++)
        for (Index i = 0; i < s.height; i++)
            for (Index j = 0; j < s.width; j++) {
                const Index here = (n * s.height + i) * s.width + j;
                start(here);
                for (Index di = -1; di <= 1; di++)
                    for (Index dj = -1; dj <= 1; dj++)
                        if (i + di >= 0 && i + di < s.height && j + dj >= 0 && j + dj < s.width)
                            body(here, here + di * s.width + dj, 3 * (di + 1) + dj + 1);
                end(here);
            }
}

// Depthwise 3×3, zero padding. taps: (9, C); bias: (C,) or null.
Tensor depthwise(const Tensor& x, const Tensor& taps, const float* bias) {
    const Shape s(x);
    const Index channels = s.channels;
    const Tensor y = torch::empty_like(x);
    std::vector<float> sums(channels);
    float* sum = sums.data();
    const Bf16* in = halves(x);
    Bf16* out = halves(y);
    const float* weights = floats(taps);
    windows(
        s, [=](Index) { each(channels, [=](Index c) { sum[c] = bias ? bias[c] : 0.0f; }); },
        [=](Index, Index there, Index tap) {
            const Bf16* pixel = in + there * channels;
            const float* weight = weights + tap * channels;
            each(channels, [=](Index c) { sum[c] += to_float(pixel[c]) * weight[c]; });
        },
        [=](Index here) {
            Bf16* pixel = out + here * channels;
            each(channels, [=](Index c) { pixel[c] = to_bf16(sum[c]); });
        });
    return y;
}

Tensor depthwise_input_gradient(const Tensor& gradient, const Tensor& taps) {
    return depthwise(gradient, taps.flip(0).contiguous(), nullptr);
}

Tensor depthwise_taps_gradient(const Tensor& x, const Tensor& gradient) { // -> (9, C)
    const Shape s(x);
    const Index channels = s.channels;
    const Tensor result = torch::zeros({9, channels}, x.options().dtype(at::kFloat));
    const Bf16 *in = halves(x), *out = halves(gradient);
    float* sums = floats(result);
    windows(
        s, [](Index) {},
        [=](Index here, Index there, Index tap) {
            const Bf16 *pixel = in + there * channels, *slope = out + here * channels;
            float* sum = sums + tap * channels;
            each(channels, [=](Index c) { sum[c] += to_float(pixel[c]) * to_float(slope[c]); });
        },
        [](Index) {});
    return result;
}

Tensor taps_of(const Tensor& weight) { return weight.reshape({weight.size(0), 9}).t().contiguous(); } // (C, 3, 3)
Tensor weight_of(const Tensor& taps) { return taps.t().reshape({taps.size(1), 3, 3}); }

// layers.Depthwise on bfloat16.
struct Depthwise : Function<Depthwise> {
    static Tensor forward(AutogradContext* context, Tensor x, Tensor weight, Tensor bias) {
        at::AutoDispatchBelowADInplaceOrView guard;
        x = rounded(x);
        const Tensor taps = taps_of(weight);
        context->save_for_backward({x, taps});
        return depthwise(x, taps, floats(bias));
    }
    static Tensors backward(AutogradContext* context, Tensors gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor x = saved[0], taps = saved[1], gradient = rounded(gradients[0]);
        return {depthwise_input_gradient(gradient, taps), weight_of(depthwise_taps_gradient(x, gradient)),
                sum_of_rows(gradient, x.size(3))};
    }
};

inline float hard_sigmoid(float x) { return std::fmin(std::fmax((x + 3.0f) * (1.0f / 6.0f), 0.0f), 1.0f); }

// layers.Block on a float32 residual sum.
struct Block : Function<Block> {
    static Tensor forward(AutogradContext* context, Tensor x, Tensor in_weight, Tensor in_bias, Tensor dw_weight,
                          Tensor dw_bias, Tensor out_weight, Tensor out_bias, Tensor gate_in_weight,
                          Tensor gate_in_bias, Tensor gate_out_weight, Tensor gate_out_bias) {
        at::AutoDispatchBelowADInplaceOrView guard;
        x = x.contiguous();
        const Shape s(x);
        const Index channels = s.channels, rows = s.positions();
        const Tensor w1 = rounded(in_weight), w2 = rounded(out_weight), w3 = rounded(gate_in_weight);
        const Tensor w4 = rounded(gate_out_weight), taps = taps_of(dw_weight), x0 = rounded(x).view({rows, channels});

        const Tensor hidden = at::mm(x0, w1.t());
        for (Index r = 0; r < rows; r++) {
            Bf16* h = halves(hidden) + r * channels;
            const float* bias = floats(in_bias);
            each(channels, [=](Index c) {
                const float value = to_float(h[c]) + bias[c];
                h[c] = to_bf16(value > 0.0f ? value : LEAK * value);
            });
        }
        const Tensor filtered = depthwise(hidden.view(x.sizes()), taps, floats(dw_bias)).view({rows, channels});
        const Tensor branch = at::mm(filtered, w2.t()), sum = torch::empty_like(x), x1 = torch::empty_like(hidden);
        for (Index r = 0; r < rows; r++) {
            const Bf16* b = halves(branch) + r * channels;
            const float *before = floats(x) + r * channels, *bias = floats(out_bias);
            float* after = floats(sum) + r * channels;
            Bf16* after_rounded = halves(x1) + r * channels;
            each(channels, [=](Index c) {
                const float value = before[c] + to_float(b[c]) + bias[c];
                after[c] = value;
                after_rounded[c] = to_bf16(value);
            });
        }
        const Tensor pairs = at::mm(x1, w3.t()), gated = torch::empty_like(hidden); // pairs: values, then gates
        for (Index r = 0; r < rows; r++) {
            Bf16 *value = halves(pairs) + 2 * r * channels, *gate = value + channels, *g = halves(gated) + r * channels;
            const float *value_bias = floats(gate_in_bias), *gate_bias = value_bias + channels;
            each(channels, [=](Index c) {
                const float v = to_float(value[c]) + value_bias[c], t = to_float(gate[c]) + gate_bias[c];
                value[c] = to_bf16(v);
                gate[c] = to_bf16(t);
                g[c] = to_bf16(v * hard_sigmoid(t));
            });
        }
        const Tensor second = at::mm(gated, w4.t());
        for (Index r = 0; r < rows; r++) {
            const Bf16* b = halves(second) + r * channels;
            const float* bias = floats(gate_out_bias);
            float* after = floats(sum) + r * channels;
            each(channels, [=](Index c) { after[c] += to_float(b[c]) + bias[c]; });
        }
        context->save_for_backward({x0, hidden, filtered, x1, pairs, gated, w1, w2, w3, w4, taps});
        return sum;
    }

    static Tensors backward(AutogradContext* context, Tensors gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor x0 = saved[0], hidden = saved[1], filtered = saved[2], x1 = saved[3], pairs = saved[4];
        const Tensor gated = saved[5], w1 = saved[6], w2 = saved[7], w3 = saved[8], w4 = saved[9], taps = saved[10];
        const Tensor of_sum = gradients[0].to(at::kFloat).contiguous();
        const Shape s(of_sum);
        const Index channels = s.channels, rows = s.positions();

        const Tensor of_second = rounded(of_sum).view({rows, channels}), of_gated = at::mm(of_second, w4);
        const Tensor of_pairs = torch::empty_like(pairs);
        for (Index r = 0; r < rows; r++) {
            const Bf16 *g = halves(of_gated) + r * channels, *value = halves(pairs) + 2 * r * channels;
            const Bf16* gate = value + channels;
            Bf16 *of_value = halves(of_pairs) + 2 * r * channels, *of_gate = of_value + channels;
            each(channels, [=](Index c) {
                const float t = to_float(gate[c]), slope = t > -3.0f && t < 3.0f ? 1.0f / 6.0f : 0.0f;
                of_value[c] = to_bf16(to_float(g[c]) * hard_sigmoid(t));
                of_gate[c] = to_bf16(to_float(g[c]) * to_float(value[c]) * slope);
            });
        }
        const Tensor through = at::mm(of_pairs, w3), of_x = torch::empty_like(of_sum), of_x1 = torch::empty_like(x1);
        {
            const float* direct = floats(of_sum);
            const Bf16* branch = halves(through);
            float* total = floats(of_x);
            Bf16* total_rounded = halves(of_x1);
            each(rows * channels, [=](Index i) {
                total[i] = direct[i] + to_float(branch[i]);
                total_rounded[i] = to_bf16(total[i]);
            });
        }
        const Tensor of_filtered = at::mm(of_x1, w2).view(of_sum.sizes());
        const Tensor of_hidden = depthwise_input_gradient(of_filtered, taps).view({rows, channels});
        {
            Bf16* slope = halves(of_hidden);
            const Bf16* h = halves(hidden);
            each(rows * channels, [=](Index i) {
                const float value = to_float(slope[i]);
                slope[i] = to_bf16(to_float(h[i]) > 0.0f ? value : LEAK * value);
            });
        }
        const Tensor first = at::mm(of_hidden, w1);
        {
            const Bf16* branch = halves(first);
            float* total = floats(of_x);
            each(rows * channels, [=](Index i) { total[i] += to_float(branch[i]); });
        }
        if (!context->needs_input_grad(1)) return {of_x, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}; // frozen weights
        const Tensor of_taps = depthwise_taps_gradient(hidden.view(of_sum.sizes()), of_filtered);
        const auto weight = [](const Tensor& out, const Tensor& in) { return at::mm(out.t(), in).to(at::kFloat); };
        return {of_x,
                weight(of_hidden, x0), sum_of_rows(of_hidden, channels),
                weight_of(of_taps), sum_of_rows(of_filtered, channels),
                weight(of_x1, filtered), sum_of_rows(of_x1, channels),
                weight(of_pairs, x1), sum_of_rows(of_pairs, 2 * channels),
                weight(of_second, gated), sum_of_rows(of_second, channels)};
    }
};

// A 1×1 layer with a float32 forward pass and a bfloat16 backward pass, for the layers that see the largest values:
// bfloat16 has 8 bits, and at high quality they would be most of the error.
struct Linear : Function<Linear> {
    static Tensor forward(AutogradContext* context, Tensor x, Tensor weight, Tensor bias) {
        at::AutoDispatchBelowADInplaceOrView guard;
        c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::DispatchKey::AutocastCPU);
        auto sizes = x.sizes().vec();
        sizes.back() = weight.size(0);
        const Tensor rows = x.contiguous().view({-1, weight.size(1)});
        context->save_for_backward({rounded(rows), rounded(weight)});
        return at::addmm(bias, rows, weight.t()).view(sizes);
    }
    static Tensors backward(AutogradContext* context, Tensors gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor x = saved[0], weight = saved[1], gradient = rounded(gradients[0]).view({-1, weight.size(0)});
        Tensor of_x;
        if (context->needs_input_grad(0)) {
            auto sizes = gradients[0].sizes().vec();
            sizes.back() = weight.size(1);
            of_x = at::mm(gradient, weight).to(at::kFloat).view(sizes);
        }
        return {of_x, at::mm(gradient.t(), x).to(at::kFloat), sum_of_rows(gradient, weight.size(0))};
    }
};

// x times a gain of each picture and channel, float32. gains: (B, C).
struct Scale : Function<Scale> {
    static Tensor forward(AutogradContext* context, Tensor x, Tensor gains) {
        at::AutoDispatchBelowADInplaceOrView guard;
        x = x.contiguous(), gains = gains.contiguous();
        context->save_for_backward({x, gains});
        const Shape s(x);
        const Tensor y = torch::empty_like(x);
        for (Index r = 0; r < s.positions(); r++) {
            const float *in = floats(x) + r * s.channels, *gain = gain_of(gains, s, r);
            float* out = floats(y) + r * s.channels;
            each(s.channels, [=](Index c) { out[c] = in[c] * gain[c]; });
        }
        return y;
    }
    static Tensors backward(AutogradContext* context, Tensors gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor x = saved[0], gains = saved[1], of_y = gradients[0].contiguous();
        const Shape s(x);
        const Tensor of_x = torch::empty_like(x), of_gains = torch::zeros_like(gains);
        for (Index r = 0; r < s.positions(); r++) {
            const float *in = floats(x) + r * s.channels, *slope = floats(of_y) + r * s.channels;
            const float* gain = gain_of(gains, s, r);
            float *out = floats(of_x) + r * s.channels, *sum = gain_of(of_gains, s, r);
            each(s.channels, [=](Index c) {
                out[c] = slope[c] * gain[c];
                sum[c] += slope[c] * in[c];
            });
        }
        return {of_x, of_gains};
    }
    static float* gain_of(const Tensor& gains, const Shape& s, Index row) {
        return floats(gains) + row / (s.height * s.width) * s.channels;
    }
};

// hyperprior.context_input: float32 (..., M) -> bfloat16 (..., 2 M), y / 8 and log2(1 + |y|).
struct ContextInput : Function<ContextInput> {
    static Tensor forward(AutogradContext* context, Tensor y) {
        at::AutoDispatchBelowADInplaceOrView guard;
        y = y.contiguous();
        context->save_for_backward({y});
        auto sizes = y.sizes().vec();
        const Index latents = sizes.back();
        sizes.back() *= 2;
        const Tensor result = torch::empty(sizes, y.options().dtype(at::kBFloat16));
        for (Index r = 0; r < y.numel() / latents; r++) {
            const float* in = floats(y) + r * latents;
            Bf16 *linear = halves(result) + 2 * r * latents, *log = linear + latents;
            each(latents, [=](Index c) {
                linear[c] = to_bf16(in[c] * 0.125f);
                log[c] = to_bf16(std::log(1.0f + std::fabs(in[c])) * LOG2_E);
            });
        }
        return result;
    }
    static Tensors backward(AutogradContext* context, Tensors gradients) {
        const Tensor y = context->get_saved_variables()[0], gradient = rounded(gradients[0]);
        const Tensor of_y = torch::empty_like(y);
        const Index latents = y.size(-1);
        for (Index r = 0; r < y.numel() / latents; r++) {
            const float* in = floats(y) + r * latents;
            const Bf16 *linear = halves(gradient) + 2 * r * latents, *log = linear + latents;
            float* out = floats(of_y) + r * latents;
            each(latents, [=](Index c) {
                const float sign = in[c] > 0.0f ? 1.0f : in[c] < 0.0f ? -1.0f : 0.0f;
                out[c] = to_float(linear[c]) * 0.125f + to_float(log[c]) * sign * LOG2_E / (1.0f + std::fabs(in[c]));
            });
        }
        return {of_y};
    }
};

// min(max(x + bias, 0), 127). rows: a bias of each picture, (B, C), or empty; phases: of each phase of the 2×2 lattice,
// (2, 2, C), or empty.
struct Activation : Function<Activation> {
    static Tensor forward(AutogradContext* context, Tensor x, Tensor rows, Tensor phases) {
        at::AutoDispatchBelowADInplaceOrView guard;
        x = rounded(x), rows = rows.contiguous(), phases = phases.contiguous();
        const Tensor y = torch::empty_like(x);
        std::vector<float> zeros(x.size(3));
        const Bf16* in = halves(x);
        Bf16* out = halves(y);
        biases(Shape(x), rows, phases, zeros, [=](Index here, const float* row, const float* phase, Index channels) {
            each(channels, [=](Index c) {
                const float value = to_float(in[here * channels + c]) + row[c] + phase[c];
                out[here * channels + c] = to_bf16(std::fmin(std::fmax(value, 0.0f), ACTIVATION_MAX));
            });
        });
        context->save_for_backward({y, rows, phases});
        return y;
    }
    static Tensors backward(AutogradContext* context, Tensors gradients) {
        const auto saved = context->get_saved_variables();
        const Tensor y = saved[0], gradient = rounded(gradients[0]), of_x = torch::empty_like(y);
        const Tensor of_rows = torch::zeros_like(saved[1]), of_phases = torch::zeros_like(saved[2]);
        std::vector<float> unused(y.size(3));
        const Bf16 *value = halves(y), *slope = halves(gradient);
        Bf16* out = halves(of_x);
        biases(Shape(y), of_rows, of_phases, unused, [=](Index here, float* row, float* phase, Index channels) {
            each(channels, [=](Index c) {
                const float v = to_float(value[here * channels + c]);
                const float passed = v > 0.0f && v < ACTIVATION_MAX ? to_float(slope[here * channels + c]) : 0.0f;
                out[here * channels + c] = to_bf16(passed);
                row[c] += passed;
                phase[c] += passed;
            });
        });
        return {of_x, of_rows, of_phases};
    }
    template <typename Body>
    static void biases(const Shape& s, const Tensor& rows, const Tensor& phases, std::vector<float>& other, Body body) {
        const Index channels = s.channels;
        for (Index n = 0; n < s.batch; n++)
            for (Index i = 0; i < s.height; i++)
                for (Index j = 0; j < s.width; j++) {
                    float* row = rows.numel() ? floats(rows) + n * channels : other.data();
                    float* phase = phases.numel() ? floats(phases) + (i % 2 * 2 + j % 2) * channels : other.data();
                    body((n * s.height + i) * s.width + j, row, phase, channels);
                }
    }
};

// One context pass: copies of y_hat and parameters in which the latents of the pass are filled in.
// y, y_hat: (B, H, W, M); parameters, base, correction: (B, H, W, 2 M), means and indexes; correction may be empty.
struct Pass : Function<Pass> {
    static Tensors forward(AutogradContext* context, Tensor y, Tensor y_hat, Tensor parameters, Tensor base,
                           Tensor correction, Index step) {
        at::AutoDispatchBelowADInplaceOrView guard;
        y = y.contiguous(), base = base.contiguous(), correction = correction.contiguous();
        y_hat = y_hat.clone(), parameters = parameters.clone();
        const Index latents = y.size(3);
        const std::vector<float> zeros(2 * latents);
        const float *from = floats(y), *first = floats(base);
        const float* second = correction.numel() ? floats(correction) : nullptr;
        float *decoded = floats(y_hat), *filled = floats(parameters);
        groups(Shape(y), step, [&](Index here, Index group, Index count) {
            const Index at = here * latents + group, at2 = 2 * here * latents + group;
            const float *a = first + at2, *b = second ? second + at2 : zeros.data(), *value = from + at;
            float *mean = filled + at2, *index = mean + latents, *out = decoded + at;
            each(count, [=](Index c) {
                mean[c] = a[c] + b[c];
                index[c] = a[latents + c] + b[latents + c];
                out[c] = std::nearbyint(value[c] - mean[c]) + mean[c];
            });
        });
        context->saved_data["step"] = step;
        context->saved_data["corrected"] = correction.numel() > 0;
        return {y_hat, parameters};
    }
    static Tensors backward(AutogradContext* context, Tensors gradients) { // rounding passes the gradient to y alone
        const Tensor of_y_hat = gradients[0].contiguous().clone(), of_parameters = gradients[1].contiguous().clone();
        const Tensor of_y = torch::zeros_like(of_y_hat), of_base = torch::zeros_like(of_parameters);
        const Index latents = of_y.size(3);
        const auto move = [](const Tensor& from, const Tensor& to, Index at, Index count) {
            std::memcpy(floats(to) + at, floats(from) + at, count * sizeof(float));
            std::memset(floats(from) + at, 0, count * sizeof(float));
        };
        groups(Shape(of_y), context->saved_data["step"].toInt(), [&](Index here, Index group, Index count) {
            move(of_y_hat, of_y, here * latents + group, count);
            move(of_parameters, of_base, 2 * here * latents + group, count);
            move(of_parameters, of_base, 2 * here * latents + latents + group, count);
        });
        const bool corrected = context->saved_data["corrected"].toBool();
        return {of_y, of_y_hat, of_parameters, of_base, corrected ? of_base : Tensor(), Tensor()};
    }
    // Calls body(position, first latent, number of latents) for each position: a pass codes one group at each.
    template <typename Body> static void groups(const Shape& s, Index step, Body body) {
        const Index quarter = s.channels / 4;
        for (Index n = 0; n < s.batch; n++)
            for (Index group = 0; group < 4; group++) {
                const int* phase = PHASES[(step + group) % 4];
                for (Index i = phase[0]; i < s.height; i += 2)
                    for (Index j = phase[1]; j < s.width; j += 2)
                        body((n * s.height + i) * s.width + j, group * quarter, quarter);
            }
    }
};

inline float erfc(float x) { // relative error 1.2e-7: Press et al., Numerical Recipes, section 6.2
    const float z = std::fabs(x), t = 2.0f / (2.0f + z);
    const float polynomial =
        -1.26551223f +
        t * (1.00002368f +
             t * (0.37409196f +
                  t * (0.09678418f +
                       t * (-0.18628806f +
                            t * (0.27886807f +
                                 t * (-1.13520398f + t * (1.48851587f + t * (-0.82215223f + t * 0.17087277f))))))));
    const float tail = t * std::exp(polynomial - z * z);
    return x >= 0.0f ? tail : 2.0f - tail;
}

// rate.training_bits, summed over each picture: (B, ...) -> (B,).
struct Bits : Function<Bits> {
    static Tensor forward(AutogradContext* context, Tensor residual, Tensor index, Index seed, double log_scale_step,
                          double scale_min, double index_max) {
        at::AutoDispatchBelowADInplaceOrView guard;
        residual = residual.contiguous(), index = index.contiguous();
        const Index batch = residual.size(0), count = residual.numel() / batch;
        const Tensor of_residual = torch::empty_like(residual), of_index = torch::empty_like(residual);
        const Tensor bits = torch::empty({batch}, residual.options());
        const float step = log_scale_step, log_start = std::log(scale_min) + 0.5 * std::log(2.0), largest = index_max;
        for (Index n = 0; n < batch; n++) {
            const float *r = floats(residual) + n * count, *rows = floats(index) + n * count;
            float *of_r = floats(of_residual) + n * count, *of_row = floats(of_index) + n * count, total = 0.0f;
            const std::uint32_t stream = std::uint32_t(seed * 2654435761u + n * 40503u);
#pragma omp simd reduction(+ : total)
            for (Index i = 0; i < count; i++) {
                const float row = std::fmin(std::fmax(rows[i], 0.0f), largest);
                const float inverse = std::exp(-row * step - log_start); // 1 / (scale · sqrt 2)

                const float whole = std::fabs(std::nearbyint(r[i]));
                const float upper = (whole - 0.5f) * inverse, lower = (whole + 0.5f) * inverse;
                const float likelihood = std::fmax(0.5f * (erfc(upper) - erfc(lower)), LIKELIHOOD_MIN);
                total -= std::log(likelihood) * LOG2_E;
                const float change = upper * std::exp(-upper * upper) - lower * std::exp(-lower * lower);
                const float slope = -LOG2_E / likelihood * INVERSE_SQRT_PI * step * change;
                const bool passes = rows[i] <= largest && (rows[i] >= 0.0f || slope < 0.0f); // layers.lower_bound
                of_row[i] = passes ? slope : 0.0f;

                std::uint32_t hash = stream + std::uint32_t(i) * 0x9E3779B9u; // uniform noise, from a hash of i
                hash = (hash ^ hash >> 16) * 0x7feb352du;
                hash = (hash ^ hash >> 15) * 0x846ca68bu;
                hash ^= hash >> 16;
                const float noisy = r[i] + float(std::int32_t(hash >> 8)) * (1.0f / (1 << 24)) - 0.5f;
                const float size = std::fabs(noisy), above = (size - 0.5f) * inverse, below = (size + 0.5f) * inverse;
                const float chance = std::fmax(0.5f * (erfc(above) - erfc(below)), LIKELIHOOD_MIN);
                const float density = std::exp(-above * above) - std::exp(-below * below);
                const float of_size = LOG2_E / chance * INVERSE_SQRT_PI * inverse * density;
                of_r[i] = noisy >= 0.0f ? of_size : -of_size;
            }
            floats(bits)[n] = total;
        }
        context->save_for_backward({of_residual, of_index});
        return bits;
    }
    static Tensors backward(AutogradContext* context, Tensors gradients) {
        const auto saved = context->get_saved_variables();
        std::vector<Index> sizes(saved[0].dim(), 1);
        sizes[0] = saved[0].size(0);
        const Tensor gradient = gradients[0].view(sizes);
        return {saved[0] * gradient, saved[1] * gradient, Tensor(), Tensor(), Tensor(), Tensor()};
    }
};

} // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
    module.def("depthwise", [](Tensor x, Tensor weight, Tensor bias) { return Depthwise::apply(x, weight, bias); });
    module.def("block", [](Tensor x, std::vector<Tensor> p) {
        return Block::apply(x, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]);
    });
    module.def("linear", [](Tensor x, Tensor weight, Tensor bias) { return Linear::apply(x, weight, bias); });
    module.def("scale", [](Tensor x, Tensor gains) { return Scale::apply(x, gains); });
    module.def("context_input", [](Tensor y) { return ContextInput::apply(y); });
    module.def("activation", [](Tensor x, Tensor rows, Tensor phases) { return Activation::apply(x, rows, phases); });
    module.def("code", [](Tensor y, Tensor y_hat, Tensor parameters, Tensor base, Tensor correction, Index step) {
        const auto both = Pass::apply(y, y_hat, parameters, base, correction, step);
        return std::make_pair(both[0], both[1]);
    });
    module.def("bits", [](Tensor residual, Tensor index, Index seed, double log_scale_step, double scale_min,
                          double index_max) {
        return Bits::apply(residual, index, seed, log_scale_step, scale_min, index_max);
    });
}
