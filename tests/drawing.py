"""Drawing: what a figure says, read back from it."""

from matplotlib.backends.backend_agg import FigureCanvasAgg


def legend(figure):
    """Entries of the figure's first legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def texts(figure):
    """Entries of all its legends."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def no_text_outside(figure):
    """Whether title, legends and all axes with their labels lie within the drawn figure."""
    parts = [figure._suptitle, *figure.legends, *figure.axes]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [part.get_tightbbox(renderer) for part in parts if part is not None]
    width, height = figure.bbox.width, figure.bbox.height
    return all(b.x0 >= -1 and b.y0 >= -1 and b.x1 <= width + 1 and b.y1 <= height + 1 for b in boxes)
