/* The causal integer net of the priors: int16 activations and weights, int32 sums, no float.
 *
 * The same net as edgeae/runtime/causal.py. Each level (features, hidden layers) keeps a linear
 * history of rows in the caller's arena, moved back to the front now and then, so that the windows
 * that layers read are contiguous.
 */
#ifndef EDGEAE_CAUSAL_H
#define EDGEAE_CAUSAL_H

#include <stddef.h>
#include <stdint.h>

#define EAE_MAX_LAYERS 8
#define EAE_MAX_WIDTH 256
#define EAE_MAX_TAPS 4096
#define EAE_MAX_OFFSET 4096
#define EAE_MAX_WINDOW (1 << 16) /* taps times channels of one layer */

typedef struct {
    const int32_t *offsets; /* n_taps of them, ascending */
    const int32_t *shift;
    const int32_t *bias;   /* NULL: none; with constants, what they have added so far included */
    const int16_t *weight; /* [n_out][n_window], a window runs forward in time; see `paired` */
    int32_t n_taps, n_in, n_out, peak;
    int32_t n_window; /* n_taps * n_in, rounded up: the rest is zeros */
    int32_t in_place; /* the steps that it reads are neighbours: they need not be gathered */
} eae_layer;

/* What a layer's constant inputs add to its sums: each tap once there is a step so long ago. */
typedef struct {
    const int32_t *offsets; /* of all taps, n_taps of them */
    const int32_t *base;    /* the layer's own bias, NULL: none */
    const int16_t *weight;  /* [n_taps][n_out][constants] */
    int32_t *bias;          /* [n_out] */
    int32_t n_taps, n_out, n_met;
} eae_constants;

typedef struct {
    int16_t *rows;
    int32_t depth, n_rows, channels, at;
} eae_level;

typedef struct {
    int32_t n_inputs, feature_peak, n_layers, n_out;
    int32_t paired;                       /* weights lie as [n_window / 2][outputs][2] */
    const int32_t *past;                  /* n_inputs flags; 2: constant, the last ones */
    int32_t n_constant;                   /* inputs that are the same at every step */
    const int32_t *constant;              /* their values, which the caller sets */
    eae_constants met[2];                 /* of the first layer and of the skip */
    int32_t step;                         /* since the start, up to the deepest offset */
    eae_layer layer[EAE_MAX_LAYERS + 1];  /* the hidden ones, then the head */
    eae_layer skip;
    eae_level level[EAE_MAX_LAYERS + 1];  /* level i is what layer i reads */
    int16_t *window;
    int32_t *sums, *skip_sums;
} eae_net;

/* Bytes of arena that the net in `words` needs, 0 where the words are no valid net: damaged, or a
 * sum could reach 2^24. The words come from CausalNet.words() in Python. */
size_t eae_net_size(const int32_t *words, size_t n_words);

/* Lays the net out in an arena of that many bytes, aligned to 16. The net keeps pointers into
 * `words` and the arena. Call it with words that eae_net_size accepted. */
void eae_net_init(eae_net *net, const int32_t *words, size_t n_words, void *arena);

/* Forgets all steps. */
void eae_net_reset(eae_net *net);

/* The feature row of the step at hand, values within +-feature_peak of all inputs that are not
 * constant. Before eae_net_eval its side features must be set and its past features 0; between
 * eae_net_eval and eae_net_advance its past features must be set. */
int16_t *eae_net_row(eae_net *net);

/* Evaluates the step at hand: n_out values below 2^29. */
void eae_net_eval(eae_net *net, int32_t *out);

/* The same in two parts, the hidden layers first; and one output alone of a net without skip. */
void eae_net_eval_hidden(eae_net *net);
void eae_net_eval_head(eae_net *net, int32_t *out);
int32_t eae_net_eval_output(const eae_net *net, int32_t o);

/* Goes on to the next step; its feature row holds zeros. */
void eae_net_advance(eae_net *net);

#endif
