"""
The options of the charts, without their data: that is kept in the browser (page.js).

A change of theme sends them again; ECharts merges them with the data it has.
"""

from typing import Any

MONOSPACE = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
BLUE, BUY, SELL = "#4c8dff", "#0ecb81", "#f6465d"
# Else each grid makes its own room for labels, and volume no longer stands below its candle.
_GRID = {"left": 8, "right": 78, "bottom": 24, "outerBoundsMode": "none"}


def candle_options(is_dark: bool) -> dict[str, Any]:
    """Return a candlestick with volume below it and our own fills upon it."""
    axis, grid = _colours(is_dark)
    category = {"type": "category", "axisTick": {"show": False}, "boundaryGap": True}
    return {
        "animation": False,
        "textStyle": {"fontFamily": MONOSPACE, "fontSize": 11},
        "grid": [
            {**_GRID, "top": 8},
            {**_GRID, "height": 52},
        ],
        "tooltip": {"trigger": "axis", "axisPointer": {"type": "cross"}, **_tooltip(is_dark)},
        "dataZoom": [{"type": "inside", "xAxisIndex": [0, 1], "start": 55, "end": 100, "minValueSpan": 20}],
        "xAxis": [
            {
                **category,
                "axisLine": {"lineStyle": {"color": grid}},
                "axisLabel": {"color": axis, "hideOverlap": True, "alignMinLabel": "left"},
            },
            {**category, "gridIndex": 1, "show": False},
        ],
        "yAxis": [
            {
                "scale": True,
                "boundaryGap": ["22%", "4%"],  # room for the volume below
                "position": "right",
                "axisLabel": {"color": axis},
                "splitLine": {"lineStyle": {"color": grid}},
            },
            {"gridIndex": 1, "show": False},
        ],
        "series": [
            {
                "name": "price",
                "type": "candlestick",
                "barMaxWidth": 14,
                "itemStyle": {"color": BUY, "color0": SELL, "borderColor": BUY, "borderColor0": SELL},
                "markLine": _last_value_line(),
            },
            {"name": "volume", "type": "bar", "barMaxWidth": 14, "xAxisIndex": 1, "yAxisIndex": 1},
            {"name": "bought", **_fills("triangle", BLUE, 0)},
            {"name": "sold", **_fills("triangle", "#f59e0b", 180)},
        ],
    }


def equity_options(is_dark: bool) -> dict[str, Any]:
    """Return an area over time."""
    axis, grid = _colours(is_dark)
    fade = {
        "type": "linear",
        "x": 0,
        "y": 0,
        "x2": 0,
        "y2": 1,
        "colorStops": [
            {"offset": 0, "color": "rgba(76,141,255,.35)"},
            {"offset": 1, "color": "rgba(76,141,255,0)"},
        ],
    }
    line = _last_value_line()
    line["lineStyle"]["color"] = line["label"]["backgroundColor"] = BLUE
    return {
        "animation": False,
        "useUTC": True,
        "textStyle": {"fontFamily": MONOSPACE, "fontSize": 11},
        "grid": {**_GRID, "top": 20},
        "tooltip": {"trigger": "axis", **_tooltip(is_dark)},
        "xAxis": {
            "type": "time",
            "axisLine": {"lineStyle": {"color": grid}},
            "axisLabel": {"color": axis, "hideOverlap": True, "alignMinLabel": "left"},
            "splitLine": {"show": False},
        },
        "yAxis": {
            "scale": True,
            "position": "right",
            "axisLabel": {"color": axis},
            "splitLine": {"lineStyle": {"color": grid}},
        },
        "series": [
            {
                "name": "equity",
                "type": "line",
                "showSymbol": False,
                "lineStyle": {"color": BLUE, "width": 2},
                "itemStyle": {"color": BLUE},
                "areaStyle": {"color": fade},
                "markLine": line,
            }
        ],
    }


def _colours(is_dark: bool) -> tuple[str, str]:
    return ("#8b98a9", "#1c2430") if is_dark else ("#64748b", "#e8edf3")


def _tooltip(is_dark: bool) -> dict[str, Any]:
    back, ink = ("#1a212d", "#e2e8f0") if is_dark else ("#ffffff", "#1e293b")
    return {"backgroundColor": back, "borderColor": "#33415555", "textStyle": {"color": ink, "fontSize": 11}}


def _fills(symbol: str, colour: str, turn: int) -> dict[str, Any]:
    edge = {"color": colour, "borderColor": "#ffffff", "borderWidth": 1}
    return {
        "type": "scatter",
        "symbol": symbol,
        "symbolSize": 9,
        "symbolRotate": turn,
        "itemStyle": edge,
        "z": 5,
    }


def _last_value_line() -> dict[str, Any]:
    label = {"position": "end", "color": "#ffffff", "padding": [3, 5], "borderRadius": 3, "distance": 2}
    return {
        "silent": True,
        "symbol": "none",
        "animation": False,
        "precision": 2,
        "lineStyle": {"type": [2, 3], "width": 1},
        "label": label,
    }
