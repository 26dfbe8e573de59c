"""The weights of an encoder under TransformerLens's names and in its order of axes, as views.

Nothing is copied: an edit of a view in place is an edit of the model.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix

from tl_crossenc.model.embeddings import BertEmbed
from tl_crossenc.model.layer_stack import GATE, K, LayerStack, Q, V


class WeightViews:
    """What an encoder with a stack of layers and embeddings shows of them."""

    stack: LayerStack
    embed: BertEmbed

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights, a view: an edit in place is an edit of the model."""
        return self.stack.projection(Q)

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights, a view."""
        return self.stack.projection(K)

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights, a view."""
        return self.stack.projection(V)

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights, a view."""
        return self.stack.output()

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases, a view."""
        return self.stack.projection_bias(Q)

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases, a view."""
        return self.stack.projection_bias(K)

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases, a view."""
        return self.stack.projection_bias(V)

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Output biases, a view."""
        return self.stack.out_bias.detach()

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """MLP input weights, a view; of a gated MLP those past which no activation comes."""
        return self.stack.mlp_in()

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"] | None:
        """Of a gated MLP the weights of what goes through the activation, a view; else None."""
        return self.stack.mlp_in(GATE) if self.stack.gated else None

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """MLP output weights, a view."""
        return self.stack.mlp_out_weight.detach().transpose(1, 2)

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """MLP input biases, a view."""
        return self.stack.mlp_in_bias_of()

    @property
    def b_gate(self) -> Float[Tensor, "layer d_mlp"] | None:
        """Of a gated MLP the biases of what goes through the activation, a view; else None."""
        return self.stack.mlp_in_bias_of(GATE) if self.stack.gated else None

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """MLP output biases, a view."""
        return self.stack.mlp_out_bias.detach()

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_embed"]:
        """Token embeddings, a view; d_embed is d_model but where a projection widens them (`embed.project`)."""
        return self.embed.W_E.detach()

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_embed"]:
        """Position embeddings, a view.

        Raises:
            ValueError: the model has no table of positions.
        """
        return _there(self.embed.W_pos, "position embeddings", "positions come in as queries meet keys")

    @property
    def W_token_type(self) -> Float[Tensor, "type d_embed"]:
        """Token-type embeddings, a view.

        Raises:
            ValueError: the model has none.
        """
        return _there(self.embed.W_token_type, "token-type embeddings", "query and passage get the same")

    @property
    def QK(self) -> FactoredMatrix:
        """`W_Q W_K^T` of every head, `[layer, head, d_model, d_model]`, factored at rank d_head.

        attender^T QK attended is the attention score before biases and the division by sqrt(d_head); with rotary positions only
        of a position with itself, since they turn the two against each other by how far apart they are.
        """
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """`W_V W_O` of every head, `[layer, head, d_model, d_model]`, factored at rank d_head."""
        return FactoredMatrix(self.W_V, self.W_O)


def _there(table: Tensor | None, what: str, why: str) -> Tensor:
    if table is None:
        raise ValueError(f"expected a model with a table of {what}, got one without: {why}")
    return table.detach()
