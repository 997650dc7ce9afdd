"""SAM's prompt encoder and mask decoder: from an image embedding and prompts to masks.

Attribute names and call signatures are those of the published program, so that its state dicts load with
``strict=True`` and code written for it runs.

Letters: P prompts (one mask set each), T tokens, C channels of the embedding, h and w its size in pixels, M masks.

Source:
    Kirillov et al., *Segment Anything*, ICCV 2023, appendix A; the reference program is
    ``facebookresearch/segment-anything``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensitivity.zoo.efficientvit_blocks import NORM_EPSILON, LayerNorm2d

PADDING_LABEL, BACKGROUND_LABEL, FOREGROUND_LABEL = -1, 0, 1
MASKS_FOR_AMBIGUOUS_PROMPTS = 3
POINT_EMBEDDINGS = 4
"""Background point, foreground point, upper left and lower right corner of a box."""


class FourierPosition(nn.Module):
    """Positions in the unit square as sines and cosines of random frequencies.

    Args:
        frequencies: half the number of channels of an encoded position.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, frequencies))

    def forward(self, positions: Tensor) -> Tensor:
        """Map ``(..., 2)``, x and y in [0, 1], to ``(..., 2 * frequencies)`` in [-1, 1]."""
        matrix = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * positions.to(matrix.dtype) - 1) @ matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class PromptEncoder(nn.Module):
    """Points, boxes and rough masks as tokens and maps that the mask decoder understands.

    Args:
        channels: C.
        embedding_size: h = w, side of the image embedding in pixels.
        prompt_size: side in pixels of the square frame in which points and boxes are given.
        mask_channels: hidden channels of the mask branch.
    """

    def __init__(self, channels: int, *, embedding_size: int, prompt_size: int, mask_channels: int) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.prompt_size = prompt_size
        self.pe_layer = FourierPosition(channels // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(POINT_EMBEDDINGS))
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, stride=2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, stride=2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, channels, 1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)

    def get_dense_pe(self) -> Tensor:
        """Encode the position of every pixel of the image embedding: ``(1, C, h, w)``."""
        size = self.embedding_size
        centres = (torch.arange(size, device=self.no_mask_embed.weight.device, dtype=torch.float32) + 0.5) / size
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        encoded: Tensor = self.pe_layer(torch.stack([x, y], dim=-1))
        return encoded.permute(2, 0, 1).unsqueeze(0)

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode P prompts; what is given for a prompt is used together.

        Args:
            points: coordinates ``(P, N, 2)``, x and y in pixels of the prompt frame, and labels ``(P, N)``: 1 on the
                object, 0 beside it, -1 no point. Without boxes, one "no point" is appended to every prompt.
            boxes: ``(P, 4)``, left, top, right, bottom in pixels of the prompt frame.
            masks: logits ``(P, 1, 4h, 4w)``, as the mask decoder returns them.

        Returns:
            Sparse embeddings ``(P, T, C)``, points before box corners, and dense embeddings ``(P, C, h, w)``.
        """
        no_mask = self.no_mask_embed.weight
        prompt_kinds = (points[0] if points is not None else None, boxes, masks)
        prompts = next((len(prompt) for prompt in prompt_kinds if prompt is not None), 1)
        sparse = [no_mask.new_zeros(prompts, 0, no_mask.shape[1])]
        if points is not None:
            sparse.append(self._embed_points(*points, pad=boxes is None))
        if boxes is not None:
            sparse.append(self._embed_boxes(boxes))
        if masks is not None:
            dense: Tensor = self.mask_downscaling(masks)
        else:
            dense = no_mask.reshape(1, -1, 1, 1).expand(prompts, -1, self.embedding_size, self.embedding_size)
        return torch.cat(sparse, dim=1), dense

    def _embed_points(self, coordinates: Tensor, labels: Tensor, *, pad: bool) -> Tensor:
        if pad:
            coordinates = F.pad(coordinates, (0, 0, 0, 1))
            labels = F.pad(labels, (0, 1), value=PADDING_LABEL)
        labels = labels.unsqueeze(-1)
        embedded = torch.where(labels == PADDING_LABEL, self.not_a_point_embed.weight, self._encode(coordinates))
        for label in (BACKGROUND_LABEL, FOREGROUND_LABEL):
            embedded = torch.where(labels == label, embedded + self._point_embedding(label), embedded)
        return embedded

    def _embed_boxes(self, boxes: Tensor) -> Tensor:
        return self._encode(boxes.reshape(-1, 2, 2)) + torch.cat([self._point_embedding(2), self._point_embedding(3)])

    def _point_embedding(self, index: int) -> Tensor:
        weight = self.point_embeddings[index].weight
        assert isinstance(weight, Tensor)
        return weight

    def _encode(self, coordinates: Tensor) -> Tensor:
        encoded: Tensor = self.pe_layer((coordinates + 0.5) / self.prompt_size)
        return encoded


class Attention(nn.Module):
    """Multi-head softmax attention whose inner width may be smaller than its outer one.

    Args:
        channels: of inputs and output.
        heads: number of heads.
        downsample: outer width by inner width.
    """

    def __init__(self, channels: int, *, heads: int, downsample: int = 1) -> None:
        super().__init__()
        self.heads = heads
        inner = channels // downsample
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from ``q`` ``(P, Tq, C)`` to ``k`` and ``v`` ``(P, Tk, C)``: ``(P, Tq, C)``."""
        query, key, value = self._split(self.q_proj(q)), self._split(self.k_proj(k)), self._split(self.v_proj(v))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        attended = scores.softmax(dim=-1) @ value
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """Map ``(P, T, inner)`` to ``(P, heads, T, inner / heads)``."""
        prompts, tokens, inner = x.shape
        return x.reshape(prompts, tokens, self.heads, inner // self.heads).transpose(1, 2)


class TokenMLP(nn.Module):
    """The transformer's two-layer perceptron on every token.

    Args:
        channels: of input and output.
        hidden: channels between the two layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, hidden)
        self.lin2 = nn.Linear(hidden, channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(P, T, C)`` to the same shape."""
        out: Tensor = self.lin2(self.act(self.lin1(x)))
        return out


class TwoWayBlock(nn.Module):
    """Tokens attend to each other and to the image, then the image attends to the tokens.

    Args:
        channels: C.
        heads: of every attention.
        hidden: of the perceptron.
        first: whether this is the first block, whose tokens carry their position already.
    """

    def __init__(self, channels: int, *, heads: int, hidden: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(channels, heads=heads)
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.cross_attn_token_to_image = Attention(channels, heads=heads, downsample=2)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.mlp = TokenMLP(channels, hidden)
        self.norm3 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.norm4 = nn.LayerNorm(channels, eps=NORM_EPSILON)
        self.cross_attn_image_to_token = Attention(channels, heads=heads, downsample=2)

    def forward(
        self, tokens: Tensor, image: Tensor, token_position: Tensor, image_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update tokens ``(P, T, C)`` and image ``(P, h * w, C)``; positions have the same shapes and are only read."""
        if self.first:
            # published as is: this one attention replaces the tokens, where every other one adds to them
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            positioned = tokens + token_position
            tokens = tokens + self.self_attn(positioned, positioned, tokens)
        tokens = self.norm1(tokens)
        positioned_image = image + image_position
        tokens = tokens + self.cross_attn_token_to_image(tokens + token_position, positioned_image, image)
        tokens = self.norm2(tokens)
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = image + self.cross_attn_image_to_token(positioned_image, tokens + token_position, tokens)
        return tokens, self.norm4(image)


class TwoWayTransformer(nn.Module):
    """Two-way blocks, then a last look of the tokens at the image.

    Args:
        channels: C.
        depth: number of blocks.
        heads: of every attention.
        hidden: of every perceptron.
    """

    def __init__(self, channels: int, *, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TwoWayBlock(channels, heads=heads, hidden=hidden, first=index == 0) for index in range(depth)
        )
        self.final_attn_token_to_image = Attention(channels, heads=heads, downsample=2)
        self.norm_final_attn = nn.LayerNorm(channels, eps=NORM_EPSILON)

    def forward(self, image: Tensor, image_position: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Let tokens and image inform each other.

        Args:
            image: ``(P, C, h, w)``.
            image_position: ``(1, C, h, w)``.
            tokens: ``(P, T, C)``; also serve as their own position.

        Returns:
            Tokens ``(P, T, C)`` and image ``(P, h * w, C)``.
        """
        image = image.flatten(2).transpose(1, 2)
        image_position = image_position.flatten(2).transpose(1, 2)
        token_position = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_position, image_position)
        looked = self.final_attn_token_to_image(tokens + token_position, image + image_position, image)
        return self.norm_final_attn(tokens + looked), image


class MLP(nn.Module):
    """Three linear layers with ReLU between them.

    Args:
        in_features: width of the input.
        hidden: width between the layers.
        out_features: width of the output.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(in_features, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out_features)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in_features)`` to ``(..., out_features)``."""
        first, second, last = self.layers
        out: Tensor = last(F.relu(second(F.relu(first(x)))))
        return out


class MaskDecoder(nn.Module):
    """Masks and their predicted quality from an image embedding and encoded prompts.

    Of its four masks the first is for prompts without ambiguity, the other three for a point's whole, part, subpart.

    Args:
        channels: C.
        depth: blocks of the transformer.
        heads: of its attentions.
        hidden: of its perceptrons.
        iou_hidden: hidden width of the quality head.
    """

    def __init__(self, channels: int, *, depth: int, heads: int, hidden: int, iou_hidden: int) -> None:
        super().__init__()
        masks = MASKS_FOR_AMBIGUOUS_PROMPTS + 1
        self.transformer = TwoWayTransformer(channels, depth=depth, heads=heads, hidden=hidden)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(masks, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(channels, channels // 4, 2, stride=2),
            LayerNorm2d(channels // 4),
            nn.GELU(),
            nn.ConvTranspose2d(channels // 4, channels // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(MLP(channels, channels, channels // 8) for _ in range(masks))
        self.iou_prediction_head = MLP(channels, iou_hidden, masks)

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        """Predict the masks of P prompts.

        Args:
            image_embeddings: ``(1, C, h, w)`` for prompts of one image, or ``(P, C, h, w)``, the image of each prompt.
            image_pe: ``(1, C, h, w)``, from :meth:`PromptEncoder.get_dense_pe`.
            sparse_prompt_embeddings: ``(P, T, C)``.
            dense_prompt_embeddings: ``(P, C, h, w)``.
            multimask_output: three masks for an ambiguous prompt, or the one for a clear prompt.

        Returns:
            Mask logits ``(P, M, 4h, 4w)`` and predicted IoU ``(P, M)``, M = 3 or 1.
        """
        prompts = len(sparse_prompt_embeddings)
        output_tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(prompts, -1, -1)
        tokens = torch.cat([output_tokens, sparse_prompt_embeddings], dim=1)
        image = image_embeddings + dense_prompt_embeddings
        tokens, pixels = self.transformer(image, image_pe, tokens)
        iou_token, mask_tokens = tokens[:, 0], tokens[:, 1 : 1 + self.mask_tokens.num_embeddings]

        upscaled = self.output_upscaling(pixels.transpose(1, 2).reshape(image.shape))
        filters = torch.stack(
            [mlp(token) for mlp, token in zip(self.output_hypernetworks_mlps, mask_tokens.unbind(1), strict=True)],
            dim=1,
        )
        masks = (filters @ upscaled.flatten(2)).reshape(*filters.shape[:2], *upscaled.shape[-2:])
        iou = self.iou_prediction_head(iou_token)
        wanted = slice(1, None) if multimask_output else slice(0, 1)
        return masks[:, wanted], iou[:, wanted]
