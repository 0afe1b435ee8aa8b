"""Fast layers over maps: batch norms folded into kernels in evaluation, point-wise convolutions as products."""

from collections.abc import Sequence

from torch import Tensor, nn

from speakerverif.models._cpu.conditions import runs_eagerly
from speakerverif.models._cpu.frames import scale_and_offset
from speakerverif.models._cpu.kernels import ConvKernel, Kernel, Packable, linear_kernel
from speakerverif.models.encoders._maps import ConvNorm, MapConv, zero_padded_maps


class FastMapConv(Packable, MapConv):
    """A point-wise convolution is one matrix product, since maps are channels-last."""

    weight: nn.Parameter

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if not runs_eagerly(maps):
            return super().forward(maps, num_frames)
        if (kernel := self.kernel_for(maps)) is not None:
            return self.convolve_with(kernel, maps, num_frames)
        return self.convolve(maps, num_frames, self.weight, self.bias)

    @property
    def pointwise(self) -> bool:
        """Whether the convolution is one matrix product."""
        return self.kernel_size == (1, 1) and self.groups == 1

    def convolve(
        self, maps: Tensor, num_frames: Tensor | None, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Return the layer's result with another weight and bias."""
        stride, padding = self.stride[::-1], self.padding[::-1]
        if self.pointwise:
            maps = nn.functional.linear(self._rows(maps), weight.flatten(1), bias).permute(0, 3, 1, 2)
        else:
            maps = nn.functional.conv2d(maps, weight.transpose(2, 3), bias, stride, padding, 1, self.groups)
        return zero_padded_maps(maps, num_frames)

    def convolve_with(self, kernel: Kernel, maps: Tensor, num_frames: Tensor | None) -> Tensor:
        """Return the result of a kernel that `kernel_of` made."""
        maps = kernel(self._rows(maps)).permute(0, 3, 1, 2) if self.pointwise else kernel(maps)
        return zero_padded_maps(maps, num_frames)

    def _rows(self, maps: Tensor) -> Tensor:
        """Return the places of maps that a point-wise convolution uses, channels last."""
        return maps[:, :, :: self.stride[1], :: self.stride[0]].permute(0, 2, 3, 1)

    def make_kernel(self, pack_products: bool) -> Kernel:
        return self.kernel_of(self.weight, self.bias, self.sources(), pack_products)

    def kernel_of(
        self, weight: Tensor, bias: Tensor | None, sources: Sequence[Tensor | None], pack_products: bool
    ) -> Kernel:
        """Return the kernel with another weight and bias, made of `sources`."""
        if self.pointwise:
            return linear_kernel(weight.flatten(1), bias, sources, pack_products)
        stride, padding = self.stride[::-1], self.padding[::-1]
        return ConvKernel(weight.transpose(2, 3), bias, sources, stride, padding, 1, self.groups)


class FastConvNorm(Packable, ConvNorm):
    """In evaluation the norm is folded into the kernel, which saves a pass over the maps."""

    conv: FastMapConv

    def forward(self, maps: Tensor, num_frames: Tensor | None = None) -> Tensor:
        if self.training or not runs_eagerly(maps):
            return super().forward(maps, num_frames)
        if (kernel := self.kernel_for(maps)) is not None:
            return self.conv.convolve_with(kernel, maps, num_frames)
        return self.conv.convolve(maps, num_frames, *self._folded())

    def _folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution with the norm folded in."""
        scale, offset = scale_and_offset(self.norm)
        if self.conv.bias is not None:
            offset = offset + self.conv.bias * scale
        return self.conv.weight * scale.view(-1, 1, 1, 1), offset

    def sources(self) -> Sequence[Tensor | None]:
        norm = self.norm
        return self.conv.weight, self.conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias

    def make_kernel(self, pack_products: bool) -> Kernel:
        return self.conv.kernel_of(*self._folded(), self.sources(), pack_products)
