// Products of small matrices, in one thread and without a tensor around them: `left` and `right` are rows of numbers,
// `left_step` and `right_step` elements apart, and `out` is of float.
//
// Matrix instructions take 16 rows and 32 numbers of a row at once, and what is left over takes several times as long.
// `plain` of BFloat16 therefore reads `left` up to padded_rows(m) and padded_length(k), where every number must be
// finite, and writes padded_rows(m) rows of `out`.
#pragma once

#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "numbers.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace patchmix {

constexpr int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

constexpr int64_t padded_rows(int64_t rows) { return round_up(rows, 16); }
// Short rows are as fast with what is left over.
constexpr int64_t padded_length(int64_t length) { return round_up(length, length > 96 ? 32 : 2); }

template <class Number>
class Products;

#if defined(__x86_64__)
constexpr bool has_blocks = true;

// A square of numbers, 16 bytes wide, transposed: rows are merged with rows one half, then a quarter, then an eighth
// further on.
INLINED void transpose_block(const uint32_t* from, int64_t from_step, uint32_t* to, int64_t to_step) {
  __m128i a[4], b[4];
  for (int row = 0; row < 4; ++row) a[row] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + row * from_step));
  for (int row = 0; row < 2; ++row) {
    b[2 * row] = _mm_unpacklo_epi32(a[row], a[row + 2]);
    b[2 * row + 1] = _mm_unpackhi_epi32(a[row], a[row + 2]);
  }
  for (int row = 0; row < 2; ++row) {
    a[2 * row] = _mm_unpacklo_epi32(b[row], b[row + 2]);
    a[2 * row + 1] = _mm_unpackhi_epi32(b[row], b[row + 2]);
  }
  for (int row = 0; row < 4; ++row) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + row * to_step), a[row]);
}
INLINED void transpose_block(const uint16_t* from, int64_t from_step, uint16_t* to, int64_t to_step) {
  __m128i a[8], b[8];
  for (int row = 0; row < 8; ++row) a[row] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + row * from_step));
  for (int turn = 0; turn < 3; ++turn) {
    for (int row = 0; row < 4; ++row) {
      b[2 * row] = _mm_unpacklo_epi16(a[row], a[row + 4]);
      b[2 * row + 1] = _mm_unpackhi_epi16(a[row], a[row + 4]);
    }
    for (int row = 0; row < 8; ++row) a[row] = b[row];
  }
  for (int row = 0; row < 8; ++row) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + row * to_step), a[row]);
}
#else
constexpr bool has_blocks = false;

template <class Number>
void transpose_block(const Number*, int64_t, Number*, int64_t) {}
#endif

// `to` [columns, rows], `to_step` apart, is `from` [rows, columns] transposed.
template <class Number>
void transpose(const Number* from, int64_t from_step, int64_t rows, int64_t columns, Number* to, int64_t to_step) {
  constexpr int64_t block = 16 / sizeof(Number);
  const int64_t whole_rows = has_blocks ? rows / block * block : 0, whole_columns = columns / block * block;
  for (int64_t row = 0; row < whole_rows; row += block) {
    for (int64_t column = 0; column < whole_columns; column += block) {
      transpose_block(from + row * from_step + column, from_step, to + column * to_step + row, to_step);
    }
  }
  for (int64_t column = 0; column < columns; ++column) {
    const int64_t begin = column < whole_columns ? whole_rows : 0;
    for (int64_t row = begin; row < rows; ++row) to[column * to_step + row] = from[row * from_step + column];
  }
}

// Pairs of rows with their numbers alternating, `columns` pairs each; the last of an odd number of rows with zeros.
EACH_PROCESSOR inline void interleave(const uint16_t* __restrict from, int64_t from_step, int64_t rows,
                                      int64_t columns, uint32_t* __restrict to, int64_t to_step) {
  for (int64_t row = 0; row < rows; row += 2, from += 2 * from_step, to += to_step) {
    if (row + 1 < rows) {
      for (int64_t column = 0; column < columns; ++column) {
        to[column] = from[column] | uint32_t{from[from_step + column]} << 16;
      }
    } else {
      for (int64_t column = 0; column < columns; ++column) to[column] = from[column];
    }
  }
}

template <>
class Products<float> {
 public:
  static bool available() { return true; }

  ~Products() { at::native::cpublas::brgemm_release(/*is_vnni=*/false); }

  // out [m, n] = left [m, k] * right [n, k]ᵀ
  void with_transposed(int64_t m, int64_t n, int64_t k, const float* left, int64_t left_step, const float* right,
                       int64_t right_step, float* out, int64_t out_step) {
    plain(m, n, k, left, left_step, transposed(right, right_step, n, k), n, out, out_step);
  }

  // out [m, n] = left [m, k] * right [k, n]
  void plain(int64_t m, int64_t n, int64_t k, const float* left, int64_t left_step, const float* right,
             int64_t right_step, float* out, int64_t out_step) const {
    at::native::cpublas::brgemm(m, n, k, left_step, right_step, out_step, /*add_C=*/false, left, right, out,
                                /*is_vnni=*/false);
  }

  // out [m, n] = left [k, m]ᵀ * right [k, n]
  void of_transposed(int64_t m, int64_t n, int64_t k, const float* left, int64_t left_step, const float* right,
                     int64_t right_step, float* out, int64_t out_step) {
    plain(m, n, k, transposed(left, left_step, k, m), k, right, right_step, out, out_step);
  }

 private:
  const float* transposed(const float* from, int64_t step, int64_t rows, int64_t columns) {
    transposed_.resize(rows * columns);
    transpose(reinterpret_cast<const uint32_t*>(from), step, rows, columns, transposed_.data(), rows);
    return reinterpret_cast<const float*>(transposed_.data());
  }

  std::vector<uint32_t> transposed_;
};

// With the matrix instructions of AMX, which take rows of the right side in pairs.
template <>
class Products<at::BFloat16> {
 public:
  using Number = at::BFloat16;

  static bool available() { return at::native::cpublas::could_pack(at::kBFloat16); }

  ~Products() { at::native::cpublas::brgemm_release(); }

  // For even `k` and steps. Columns beyond `n`, up to a multiple of 16, become 0.
  void with_transposed(int64_t m, int64_t n, int64_t k, const Number* left, int64_t left_step, const Number* right,
                       int64_t right_step, float* out, int64_t out_step) {
    reserve(n, k);
    for (int64_t first = 0; first < n; first += widest) {
      const int64_t columns = std::min(widest, n - first), width = round_up(columns, 16);
      uint32_t* pairs = packed_.data() + first * k / 2;
      if (columns < width) std::fill(pairs, pairs + k / 2 * width, 0);
      const auto* rows = reinterpret_cast<const uint32_t*>(right + first * right_step);
      transpose(rows, right_step / 2, columns, k / 2, pairs, width);
    }
    multiply(m, n, k, left, left_step, out, out_step);
  }

  // out [m, n] = left [m, k] * right [k, n].
  void plain(int64_t m, int64_t n, int64_t k, const Number* left, int64_t left_step, const Number* right,
             int64_t right_step, float* out, int64_t out_step) {
    const int64_t length = padded_length(k);
    reserve(n, length);
    for (int64_t first = 0; first < n; first += widest) {
      const int64_t columns = std::min(widest, n - first), width = round_up(columns, 16);
      uint32_t* pairs = packed_.data() + first * length / 2;
      interleave(reinterpret_cast<const uint16_t*>(right + first), right_step, k, columns, pairs, width);
      std::fill(pairs + (k + 1) / 2 * width, pairs + length / 2 * width, 0);
    }
    multiply(padded_rows(m), n, length, left, left_step, out, out_step);
  }

  void of_transposed(int64_t m, int64_t n, int64_t k, const Number* left, int64_t left_step, const Number* right,
                     int64_t right_step, float* out, int64_t out_step) {
    const int64_t step = padded_length(k);
    transposed_.assign(padded_rows(m) * step, 0);
    transpose(reinterpret_cast<const uint16_t*>(left), left_step, k, m, transposed_.data(), step);
    plain(m, n, k, reinterpret_cast<const Number*>(transposed_.data()), step, right, right_step, out, out_step);
  }

 private:
  static constexpr int64_t widest = 64;  // columns that libtorch's function takes at once, in multiples of 16

  void reserve(int64_t n, int64_t length) { packed_.resize(length / 2 * round_up(n, 16)); }

  void multiply(int64_t m, int64_t n, int64_t length, const Number* left, int64_t left_step, float* out,
                int64_t out_step) const {
    for (int64_t first = 0; first < n; first += widest) {
      const int64_t width = round_up(std::min(widest, n - first), 16);
      const auto* pairs = reinterpret_cast<const Number*>(packed_.data() + first * length / 2);
      at::native::cpublas::brgemm(m, width, length, left_step, width, out_step, /*add_C=*/false, left, pairs,
                                  out + first);
    }
  }

  std::vector<uint32_t> packed_;  // pairs, in blocks of `widest` columns
  std::vector<uint16_t> transposed_;
};

}  // namespace patchmix
