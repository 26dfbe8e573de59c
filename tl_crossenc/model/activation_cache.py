"""TransformerLens's `ActivationCache` of an encoder: what holds for one is inherited, what does not is refused.

A post-LN layer, as BERT's, normalizes after every write, so that the residual stream is no sum of writes (`model.writes_add_up`
says of a model whether it is one). In a pre-LN encoder it is one, but begins with normalized embeddings in place of those that
TransformerLens would add, and its norms keep their weights, which TransformerLens takes to be folded away. None has an unembedding.
What TransformerLens computes on these assumptions would come out as numbers all the same.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformer_lens import ActivationCache

LENS = "direct_attribution.score_lens(model, pairs) gives the score after each layer"
STREAMS = "cache.stack_activation('normalized_resid_post') gives the stream after each layer"
WRITES = "direct_attribution.direct_attribution(model, pairs) gives what each head and MLP adds to the score"


class EncoderCache(ActivationCache):
    """Activations of one run, by name: `cache["blocks.1.attn.hook_z"]` or `cache["z", 1]`; see TransformerLens."""

    model: Any  # a HookedEncoder

    def accumulated_resid(self, *args: Any, **kwargs: Any) -> Any:
        """Refused where writes do not add up: the last entry would be before its LayerNorm, the others past theirs."""
        if not self.model.writes_add_up:
            raise self._refused("accumulated_resid", f"{STREAMS}, {LENS}")
        return super().accumulated_resid(*args, **kwargs)

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: embeddings and writes do not add up to the stream."""
        raise self._refused(
            "decompose_resid", f"{WRITES}; single writes are cache['attn_out', layer] and cache['mlp_out', layer]"
        )

    def get_full_resid_decomposition(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: embeddings and writes do not add up to the stream."""
        raise self._refused("get_full_resid_decomposition", WRITES)

    def apply_ln_to_stack(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: what a layer reads is past norms with weights of their own, in post-LN past several of them."""
        raise self._refused("apply_ln_to_stack (apply_ln=True)", WRITES)

    def logit_attrs(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: there is no unembedding."""
        raise self._refused("logit_attrs", WRITES)

    def logit_lens(self, **kwargs: Any) -> Any:
        """Refused: there is no unembedding."""
        raise self._refused("logit_lens", LENS)

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Any = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head of the layers below `layer` (all by default) writes, `[layers x heads, pair, pos, d_model]`.

        Raises:
            ValueError: no such layer; `incl_remainder` or `apply_ln`, which need a stream that is a sum of writes.
        """
        self._check_plain("stack_head_results", incl_remainder, apply_ln=apply_ln)
        return super().stack_head_results(self._above(layer), return_labels, incl_remainder, pos_slice=pos_slice)

    def stack_neuron_results(
        self,
        layer: int | None = -1,
        pos_slice: Any = None,
        neuron_slice: Any = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Tensor | None = None,
        mlp_input: bool = False,
    ) -> Any:
        """What each neuron of the layers below `layer` (all by default) writes, `[layers x neurons, pair, pos, d_model]`.

        Raises:
            ValueError: no such layer; `incl_remainder`, `apply_ln` or `mlp_input`, which need a stream that is a sum of writes.
        """
        self._check_plain("stack_neuron_results", incl_remainder, apply_ln=apply_ln, mlp_input=mlp_input)
        return super().stack_neuron_results(
            self._above(layer),
            pos_slice,
            neuron_slice,
            return_labels,
            incl_remainder,
            project_output_onto=project_output_onto,
        )

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Tensor:
        """One activation of the layers below `layer` (all by default), stacked.

        Raises:
            ValueError: no such layer.
        """
        return super().stack_activation(activation_name, self._above(layer), sublayer_type)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> EncoderCache:
        """The cache of some of the pairs."""
        found = super().apply_slice_to_batch_dim(batch_slice)
        return EncoderCache(found.cache_dict, found.model, has_batch_dim=found.has_batch_dim)

    def _above(self, layer: int | None) -> int:
        n_layers = self.model.cfg.n_layers
        if layer is None or layer == -1:
            return n_layers
        if not 1 <= layer <= n_layers:
            raise ValueError(
                f"expected a layer in 1..{n_layers}, those below it being stacked, or -1 for all; got {layer}"
            )
        return layer

    def _check_plain(self, name: str, incl_remainder: bool, **options: bool) -> None:
        """Refuse what asks for a norm before an unembedding, and remainders of a stream that is no sum."""
        remainder = incl_remainder and not self.model.writes_add_up
        for option, on in {"incl_remainder": remainder, **options}.items():
            if on:
                raise self._refused(f"{name} with {option}=True", WRITES)

    def _refused(self, what: str, instead: str) -> ValueError:
        why = (
            "this pre-LN encoder normalizes its embeddings first, its norms have weights of their own"
            if self.model.writes_add_up
            else "a BERT layer normalizes after every write (post-LN)"
        )
        return ValueError(
            f"expected a residual stream that is a plain sum, read by an unembedding, for {what}; {why} and a classifier reads the "
            f"last: {instead}"
        )
