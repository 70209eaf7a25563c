// What the solvers of rotations share: by what each token and pair of dimensions was turned.
#pragma once

#include <complex>
#include <cstdint>
#include <functional>
#include <vector>

#include "harness/explain/scene.h"
#include "harness/explain/theory.h"

namespace qdiff::explain {

using Complex = std::complex<double>;

// The scene is a rotation of one recorded tensor.
bool is_rotation(const Scene& scene);
// By which a pair turns from position to position: theta^(-2 pair / head_dim).
double frequency(const ModelConfig& config, std::int64_t pair);

// The equations of a pair's cosine and sine, each in units of its element's deviation, as sums: the squared error of
// (c, s) is cc c^2 + 2 cs c s + ss s^2 - 2 (yc c + ys s) + yy.
struct Equations {
  double cc = 0.0, cs = 0.0, ss = 0.0, yc = 0.0, ys = 0.0, yy = 0.0;

  void add(double of_cosine, double of_sine, double y, double weight) {
    cc += weight * of_cosine * of_cosine;
    cs += weight * of_cosine * of_sine;
    ss += weight * of_sine * of_sine;
    yc += weight * of_cosine * y;
    ys += weight * of_sine * y;
    yy += weight * y * y;
  }
  double error(double cosine, double sine) const {
    return cc * cosine * cosine + 2.0 * cs * cosine * sine + ss * sine * sine - 2.0 * (yc * cosine + ys * sine) + yy;
  }
};

// What a token was turned by, pair by pair.
struct Turned {
  const Instance* instance;
  std::int64_t batch, token, position;
  std::vector<Equations> by;  // [d/2]
};

// Of a sample of the wrong rows; empty where the input was not recorded.
std::vector<Turned> solve_turns(Scene& scene);

// Of a candidate, the values that a table of cosines and sines by token and pair gives.
Candidate turning(Scene& scene, Candidate candidate,
                  const std::function<Complex(const Instance&, std::int64_t b, std::int64_t t, std::int64_t pair)>& by);

}  // namespace qdiff::explain
