// Everything that goes element by element, and the norm. Included by kernel_set.cpp alone.
#pragma once

template <typename Pointer>
struct Pointee;
template <typename T>
struct Pointee<T*> {
  using Type = T;
};
template <typename Pointer>
using RemovePointer = typename Pointee<Pointer>::Type;

// Calls function(element pointer type) for the storage type.
template <typename Function>
QDIFF_INLINE void with_storage(Storage storage, Function&& function) {
  switch (storage) {
    case Storage::kF32:
      return function(static_cast<float*>(nullptr));
    case Storage::kBF16:
      return function(static_cast<Bf16*>(nullptr));
    case Storage::kF16:
      return function(static_cast<F16*>(nullptr));
  }
}

void widen(Storage storage, const void* x, float* y, std::int64_t n) {
  with_storage(storage, [&](auto* type) { widen_row(static_cast<const RemovePointer<decltype(type)>*>(x), y, n); });
}

template <typename T>
QDIFF_INLINE void narrow_row(const float* x, T* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(x + i));
  if (i < n) store_first(y + i, load_first(x + i, n - i), n - i);
}

void narrow(Storage storage, const float* x, void* y, std::int64_t n) {
  with_storage(storage, [&](auto* type) { narrow_row(x, static_cast<decltype(type)>(y), n); });
}

// exp(x) = 2^n * e^r with |r| <= ln(2)/2. The polynomial and the two-part ln 2 are those of Cephes' expf (Moshier,
// single/expf.c). Subnormal results are rounded once; below about -103.97 the result is +0, above 88.72 infinity.
QDIFF_INLINE Vec exp_of(Vec x) {
  x = max(broadcast(-105.0F), min(broadcast(89.0F), x));
  const Vec n = round_to_integer(mul(x, broadcast(1.44269504088896341F)));
  Vec r = subtract_product(n, broadcast(0.693359375F), x);  // n * 355/512 is exact
  r = subtract_product(n, broadcast(-2.12194440e-4F), r);
  Vec p = broadcast(1.9875691500e-4F);
  p = multiply_add(p, r, broadcast(1.3981999507e-3F));
  p = multiply_add(p, r, broadcast(8.3334519073e-3F));
  p = multiply_add(p, r, broadcast(4.1665795894e-2F));
  p = multiply_add(p, r, broadcast(1.6666665459e-1F));
  p = multiply_add(p, r, broadcast(5.0000001201e-1F));
  p = add(multiply_add(p, mul(r, r), r), broadcast(1.0F));
  return scale_by_power_of_two(p, n);
}

void exp_of_array(const float* x, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, exp_of(load(x + i)));
  if (i < n) store_first(y + i, exp_of(load_first(x + i, n - i)), n - i);
}

// x / (1 + exp(-x)), with exp of a negative number on both sides of 0: for x < 0 that is x * e / (1 + e), e = exp(x),
// where exp(-x) would overflow long before the result vanishes.
QDIFF_INLINE Vec silu(Vec x) {
  const Vec e = exp_of(negated_magnitude(x));
  return div(select_by_sign(x, mul(x, e), x), add(broadcast(1.0F), e));
}

void silu_mul(float* gate, const float* up, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(gate + i, mul(silu(load(gate + i)), load(up + i)));
  if (i < n) {
    store_first(gate + i, mul(silu(load_first(gate + i, n - i)), load_first(up + i, n - i)), n - i);
  }
}

QDIFF_INLINE void rotate_pairs(Vec& low, Vec& high, Vec cosine, Vec sine) {
  const Vec rotated_low = subtract_product(high, sine, mul(low, cosine));
  high = multiply_add(low, sine, mul(high, cosine));
  low = rotated_low;
}

void rotate(float* low, float* high, const float* cosine, const float* sine, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Vec a = load(low + i), b = load(high + i);
    rotate_pairs(a, b, load(cosine + i), load(sine + i));
    store(low + i, a);
    store(high + i, b);
  }
  if (i < n) {
    Vec a = load_first(low + i, n - i), b = load_first(high + i, n - i);
    rotate_pairs(a, b, load_first(cosine + i, n - i), load_first(sine + i, n - i));
    store_first(low + i, a, n - i);
    store_first(high + i, b, n - i);
  }
}

template <typename T>
QDIFF_INLINE void rms_norm_of(const RmsNormParams& p) {
  const T* x = static_cast<const T*>(p.x);
  T* y = static_cast<T*>(p.y);
  // Four chains of squares, element block i in chain i mod 4; then pairwise, then the lanes.
  Vec squares[4] = {zero(), zero(), zero(), zero()};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= p.hidden; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Vec v = load(x + i + j * kLanes);
      squares[j] = multiply_add(v, v, squares[j]);
    }
  }
  for (; i + kLanes <= p.hidden; i += kLanes) {
    const Vec v = load(x + i);
    squares[0] = multiply_add(v, v, squares[0]);
  }
  if (i < p.hidden) {
    const Vec v = load_first(x + i, p.hidden - i);
    squares[1] = multiply_add(v, v, squares[1]);
  }
  float sum[4];
  sum_lanes(add(add(squares[0], squares[1]), add(squares[2], squares[3])), zero(), zero(), zero(), sum);
  const float mean = sum[0] / static_cast<float>(p.hidden);
  const Vec inverse_rms = broadcast(1.0F / __builtin_sqrtf(mean + p.eps));

  i = 0;
  for (; i + kLanes <= p.hidden; i += kLanes) {
    store(y + i, mul(mul(load(x + i), inverse_rms), load(p.weight + i)));
    store(p.y_wide + i, load(y + i));
  }
  if (i < p.hidden) {
    const std::int64_t n = p.hidden - i;
    store_first(y + i, mul(mul(load_first(x + i, n), inverse_rms), load_first(p.weight + i, n)), n);
    store(p.y_wide + i, load_first(y + i, n));
  }
}

void rms_norm(Storage storage, const RmsNormParams& p) {
  with_storage(storage, [&](auto* type) {
    using T = RemovePointer<decltype(type)>;
    rms_norm_of<T>(p);
  });
}

template <typename T>
QDIFF_INLINE void store_tile_of(const StoreTileParams& p) {
  for (std::int64_t t = 0; t < p.tokens; ++t) {
    float* c = p.c + t * p.c_stride;
    T* out = static_cast<T*>(p.out) + t * p.out_stride;
    std::int64_t i = 0;
    for (; i + kLanes <= p.rows; i += kLanes) {
      Vec value = load(c + i);
      if (p.bias != nullptr) value = add(value, load(p.bias + i));
      store(out + i, value);
      if (sizeof(T) < sizeof(float) || p.bias != nullptr) store(c + i, load(out + i));
    }
    if (i < p.rows) {
      const std::int64_t n = p.rows - i;
      Vec value = load_first(c + i, n);
      if (p.bias != nullptr) value = add(value, load_first(p.bias + i, n));
      store_first(out + i, value, n);
      store_first(c + i, load_first(out + i, n), n);
    }
  }
}

void store_tile(Storage storage, const StoreTileParams& p) {
  with_storage(storage, [&](auto* type) {
    using T = RemovePointer<decltype(type)>;
    store_tile_of<T>(p);
  });
}

void add_residual(Storage storage, const void* residual, const float* c, void* out, std::int64_t n) {
  with_storage(storage, [&](auto* type) {
    auto* a = static_cast<const RemovePointer<decltype(type)>*>(residual);
    auto* y = static_cast<decltype(type)>(out);
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(y + i, add(load(a + i), load(c + i)));
    if (i < n) store_first(y + i, add(load_first(a + i, n - i), load_first(c + i, n - i)), n - i);
  });
}

void divide(const float* x, float divisor, float* y, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, div(load(x + i), broadcast(divisor)));
  if (i < n) store_first(y + i, div(load_first(x + i, n - i), broadcast(divisor)), n - i);
}
