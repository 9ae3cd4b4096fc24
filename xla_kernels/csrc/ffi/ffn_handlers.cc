#include <optional>
#include <string>
#include <utility>

#include "ffi/ffi_buffers.h"
#include "ffi/ffi_handlers.h"
#include "ops/operations.h"

namespace trix {
namespace {

// Keys that routing scores, with their factors and biases. They belong to tiles, [T] or [C, M], or to clusters, [C].
// They are packed as ternary or int8, with a matrix for each leading entry.
template <typename Keys>
struct KeyBuffers {
  Keys keys;
  F32 scale, offset;

  int64_t rows() const { return FromLast(scale, 0); }

  ffi::Error Check(const std::string& name, const Batch& batch, int64_t rank, int64_t d) const {
    TRIX_CHECK(batch.Fits(keys, rank) && batch.Fits(scale, rank) && batch.Fits(offset, rank),
               name + ": batch axes differ");
    TRIX_CHECK(FromLast(offset, 0) == rows(), name + ": scale and offset must have one entry a key");
    for (int64_t axis = 1; axis < rank; ++axis) {
      TRIX_CHECK(FromLast(keys, axis) == FromLast(scale, axis) && FromLast(offset, axis) == FromLast(scale, axis),
                 name + ": scale and offset must have one entry a key");
    }
    return CheckPacked(keys, rows(), d);
  }

  Signatures Slice(const Batch& batch, int64_t rank, int64_t b, int64_t d) {
    Signatures slice{nullptr, nullptr, rows(), d, batch.Slice(scale, rank, b), batch.Slice(offset, rank, b)};
    if constexpr (std::is_same_v<Keys, U8>) {
      slice.packed = batch.Slice(keys, rank, b);
    } else {
      slice.tally = batch.Slice(keys, rank, b);
    }
    return slice;
  }
};

// Keys of tiles, and with an index those of clusters and their members.
template <typename Keys>
struct RoutingBuffers {
  KeyBuffers<Keys> tiles;
  std::optional<KeyBuffers<Keys>> clusters = std::nullopt;
  std::optional<S32> member = std::nullopt;
  int64_t probes = 0;

  int64_t rank() const { return clusters ? 2 : 1; }
  int64_t count() const { return tiles.rows() * (clusters ? clusters->rows() : 1); }

  ffi::Error Check(const std::string& name, const Batch& batch, int64_t d, int64_t top_k) const {
    if (ffi::Error error = tiles.Check(name, batch, rank(), d); error.failure()) return error;
    int64_t candidates = tiles.rows();
    if (clusters) {
      if (ffi::Error error = clusters->Check(name, batch, 1, d); error.failure()) return error;
      TRIX_CHECK(FromLast(tiles.scale, 1) == clusters->rows() && batch.Fits(*member, 2) &&
                     FromLast(*member, 1) == clusters->rows() && FromLast(*member, 0) == tiles.rows(),
                 name + ": keys and members must be those of every cluster");
      TRIX_CHECK(probes >= 1 && probes <= clusters->rows(), name + ": probes must be from 1 to the number of clusters");
      candidates *= probes;
    }
    TRIX_CHECK(top_k >= 1 && top_k <= candidates, name + ": top_k must be from 1 to the number of tiles looked at");
    return ffi::Error::Success();
  }

  void Route(const Pool& pool, const Batch& batch, int64_t b, const float* x, int64_t n, int64_t d, int64_t top_k,
             const Gating& gating, int32_t* tile, float* score, float* gate) {
    const Signatures signatures = tiles.Slice(batch, rank(), b, d);
    if (!clusters) {
      trix::Route(pool, x, n, signatures, nullptr, top_k, gating, tile, score, gate);
    } else {
      const Index index{clusters->Slice(batch, 1, b, d), batch.Slice(*member, 2, b), probes};
      trix::Route(pool, x, n, signatures, &index, top_k, gating, tile, score, gate);
    }
  }
};

template <typename Keys>
ffi::Error RouteWith(RoutingBuffers<Keys> routing, ffi::ThreadPool threads, F32 x, ffi::Result<S32> tile,
                     ffi::Result<F32> score) {
  const Batch batch(*tile, 2);
  TRIX_CHECK(batch.Fits(x, 2) && batch.Fits(*score, 2), "route: batch axes differ");
  const int64_t n = FromLast(x, 1), d = FromLast(x, 0), top_k = FromLast(*tile, 0);
  TRIX_CHECK(FromLast(*tile, 1) == n && FromLast(*score, 1) == n && FromLast(*score, 0) == top_k,
             "route: the results must be n x top_k");
  if (ffi::Error error = routing.Check("route", batch, d, top_k); error.failure()) return error;
  const XlaPool pool(threads);
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      routing.Route(pool, batch, b, batch.Slice(x, 2, b), n, d, top_k, {}, batch.Slice(*tile, 2, b),
                    batch.Slice(*score, 2, b), nullptr);
    }
  });
}

template <typename Keys>
ffi::Error RouteHandler(ffi::ThreadPool threads, F32 x, Keys signatures, F32 scale, F32 offset, ffi::Result<S32> tile,
                        ffi::Result<F32> score) {
  return RouteWith<Keys>({{signatures, scale, offset}}, threads, x, tile, score);
}

template <typename Keys>
ffi::Error IndexedRouteHandler(ffi::ThreadPool threads, F32 x, Keys signatures, F32 scale, F32 offset, Keys clusters,
                               F32 cluster_scale, F32 cluster_offset, S32 member, int64_t probes, ffi::Result<S32> tile,
                               ffi::Result<F32> score) {
  const KeyBuffers<Keys> of_clusters{clusters, cluster_scale, cluster_offset};
  return RouteWith<Keys>({{signatures, scale, offset}, of_clusters, member, probes}, threads, x, tile, score);
}

// Checks the buffers of a feed-forward layer and returns its tiles.
struct TileBuffers {
  U8 up;
  F32 up_scale;
  U8 down;
  F32 down_scale;

  int64_t count() const { return FromLast(up_scale, 1); }
  int64_t hidden() const { return FromLast(up_scale, 0); }

  ffi::Error Check(const Batch& batch, int64_t d) const {
    TRIX_CHECK(batch.Fits(up, 2) && batch.Fits(up_scale, 2) && batch.Fits(down, 2) && batch.Fits(down_scale, 2),
               "feed-forward tiles: batch axes differ");
    TRIX_CHECK(FromLast(up, 1) == count() && FromLast(down, 1) == count() && FromLast(down_scale, 1) == count(),
               "feed-forward tiles: numbers of tiles differ");
    TRIX_CHECK(FromLast(down_scale, 0) == d, "feed-forward tiles: widths differ");
    if (ffi::Error error = CheckPacked(up, hidden(), d); error.failure()) return error;
    return CheckPacked(down, d, hidden());
  }

  Tiles Slice(const Batch& batch, int64_t b, bool squared) {
    return {count(),
            FromLast(down_scale, 0),
            hidden(),
            batch.Slice(up, 2, b),
            batch.Slice(up_scale, 2, b),
            batch.Slice(down, 2, b),
            batch.Slice(down_scale, 2, b),
            squared};
  }
};

ffi::Error RoutedTileFfnHandler(ffi::ThreadPool threads, F32 x, U8 up, F32 up_scale, U8 down, F32 down_scale, S32 tile,
                                F32 gate, bool squared, ffi::Result<F32> y) {
  const Batch batch(*y, 2);
  TRIX_CHECK(batch.Fits(x, 2) && batch.Fits(tile, 2) && batch.Fits(gate, 2), "routed_tile_ffn: batch axes differ");
  TileBuffers buffers{up, up_scale, down, down_scale};
  const int64_t n = FromLast(x, 1), d = FromLast(x, 0), top_k = FromLast(tile, 0);
  if (ffi::Error error = buffers.Check(batch, d); error.failure()) return error;
  TRIX_CHECK(FromLast(*y, 1) == n && FromLast(*y, 0) == d, "routed_tile_ffn: widths differ");
  TRIX_CHECK(FromLast(tile, 1) == n && FromLast(gate, 1) == n && FromLast(gate, 0) == top_k && top_k >= 1,
             "routed_tile_ffn: tile and gate must be n x k");
  const XlaPool pool(threads);
  for (int64_t b = 0; b < batch.count(); ++b) {
    const int32_t* tiles_of = batch.Slice(tile, 2, b);
    if (const int64_t bad = FirstBadTile(tiles_of, n * top_k, buffers.count()); bad >= 0) {
      return Invalid("routed_tile_ffn: tile " + std::to_string(tiles_of[bad]) + " of token " +
                     std::to_string(bad / top_k) + " is out of range; there are " + std::to_string(buffers.count()) +
                     " tiles");
    }
  }
  return WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count(); ++b) {
      RoutedTileFfn(pool, batch.Slice(x, 2, b), n, buffers.Slice(batch, b, squared), batch.Slice(tile, 2, b),
                    batch.Slice(gate, 2, b), top_k, batch.Slice(*y, 2, b));
    }
  });
}

// Routing and tiles in one call.
template <typename Keys>
ffi::Error RoutedFfnWith(RoutingBuffers<Keys> routing, TileBuffers buffers, const Gating& gating, bool squared,
                         ffi::ThreadPool threads, F32 x, ffi::Result<F32> y, ffi::Result<S32> tile,
                         ffi::Result<F32> gate) {
  const Batch batch(*y, 2);
  TRIX_CHECK(batch.Fits(x, 2) && batch.Fits(*tile, 2) && batch.Fits(*gate, 2), "routed_ffn: batch axes differ");
  const int64_t n = FromLast(x, 1), d = FromLast(x, 0), tiles = buffers.count(), top_k = FromLast(*tile, 0);
  if (ffi::Error error = buffers.Check(batch, d); error.failure()) return error;
  if (ffi::Error error = routing.Check("routed_ffn", batch, d, top_k); error.failure()) return error;
  TRIX_CHECK(routing.count() == tiles, "routed_ffn: there must be one signature a tile");
  TRIX_CHECK(FromLast(*y, 1) == n && FromLast(*y, 0) == d && FromLast(*tile, 1) == n && FromLast(*gate, 1) == n &&
                 FromLast(*gate, 0) == top_k,
             "routed_ffn: the results must be n x d and n x top_k");
  const XlaPool pool(threads);
  std::optional<int32_t> bad;
  ffi::Error error = WithoutExceptions([&] {
    for (int64_t b = 0; b < batch.count() && !bad; ++b) {
      const float* rows = batch.Slice(x, 2, b);
      int32_t* chosen = batch.Slice(*tile, 2, b);
      float* gates = batch.Slice(*gate, 2, b);
      routing.Route(pool, batch, b, rows, n, d, top_k, gating, chosen, nullptr, gates);
      // An index may name any tile.
      const int64_t first_bad = routing.member ? FirstBadTile(chosen, n * top_k, tiles) : -1;
      if (first_bad >= 0) {
        bad = chosen[first_bad];
      } else {
        RoutedTileFfn(pool, rows, n, buffers.Slice(batch, b, squared), chosen, gates, top_k, batch.Slice(*y, 2, b));
      }
    }
  });
  if (bad) {
    return Invalid("routed_ffn: the index names tile " + std::to_string(*bad) + "; there are " + std::to_string(tiles) +
                   " tiles");
  }
  return error;
}

template <typename Keys>
ffi::Error RoutedFfnHandler(ffi::ThreadPool threads, F32 x, Keys signatures, F32 scale, F32 offset, U8 up, F32 up_scale,
                            U8 down, F32 down_scale, bool squared, bool probability, float temperature, float margin,
                            ffi::Result<F32> y, ffi::Result<S32> tile, ffi::Result<F32> gate) {
  return RoutedFfnWith<Keys>({{signatures, scale, offset}}, {up, up_scale, down, down_scale},
                             {probability, temperature, margin}, squared, threads, x, y, tile, gate);
}

template <typename Keys>
ffi::Error IndexedFfnHandler(ffi::ThreadPool threads, F32 x, Keys signatures, F32 scale, F32 offset, Keys clusters,
                             F32 cluster_scale, F32 cluster_offset, S32 member, U8 up, F32 up_scale, U8 down,
                             F32 down_scale, int64_t probes, bool squared, bool probability, float temperature,
                             float margin, ffi::Result<F32> y, ffi::Result<S32> tile, ffi::Result<F32> gate) {
  const KeyBuffers<Keys> of_clusters{clusters, cluster_scale, cluster_offset};
  return RoutedFfnWith<Keys>({{signatures, scale, offset}, of_clusters, member, probes},
                             {up, up_scale, down, down_scale}, {probability, temperature, margin}, squared, threads, x,
                             y, tile, gate);
}

}  // namespace
}  // namespace trix

namespace ffi = xla::ffi;

namespace {

// Arguments that the routing handlers share, in this order.
template <typename Keys, typename Binding>
auto BindKeys(Binding binding) {
  return std::move(binding).template Arg<Keys>().template Arg<trix::F32>().template Arg<trix::F32>();
}

template <typename Keys>
auto BindRouting() {
  return BindKeys<Keys>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<trix::F32>());
}

template <typename Keys>
auto BindIndexedRouting() {
  return BindKeys<Keys>(BindRouting<Keys>()).template Arg<trix::S32>();
}

template <typename Binding>
auto BindFfnResults(Binding binding) {
  return std::move(binding)
      .template Attr<bool>("squared")
      .template Attr<bool>("probability")
      .template Attr<float>("temperature")
      .template Attr<float>("margin")
      .template Ret<trix::F32>()
      .template Ret<trix::S32>()
      .template Ret<trix::F32>();
}

template <typename Binding>
auto BindRouteResults(Binding binding) {
  return std::move(binding).template Ret<trix::S32>().template Ret<trix::F32>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixRoutedTileFfn, trix::RoutedTileFfnHandler,
                              trix::BindRoutedTiles().Attr<bool>("squared").Ret<trix::F32>());

#define TRIX_DEFINE_ROUTING(kind, Keys)                                                                            \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixRoute##kind, trix::RouteHandler<Keys>, BindRouteResults(BindRouting<Keys>())); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixIndexedRoute##kind, trix::IndexedRouteHandler<Keys>,                           \
                                BindRouteResults(BindIndexedRouting<Keys>().Attr<int64_t>("probes")));             \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(TrixRoutedFfn##kind, trix::RoutedFfnHandler<Keys>,                                 \
                                BindFfnResults(trix::BindTiles(BindRouting<Keys>())));                             \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                                   \
      TrixIndexedFfn##kind, trix::IndexedFfnHandler<Keys>,                                                         \
      BindFfnResults(trix::BindTiles(BindIndexedRouting<Keys>()).template Attr<int64_t>("probes")))

TRIX_DEFINE_ROUTING(Ternary, trix::U8);
TRIX_DEFINE_ROUTING(Int8, trix::S8);
