// Charts and copy buttons of the admin's own pages. Chart.js comes with django-unfold and is loaded before this file.
(() => {
  "use strict";

  const style = () => getComputedStyle(document.documentElement);

  const resolved = (value) => {
    const name = typeof value === "string" && value.match(/^var\((--[\w-]+)\)$/)?.[1];
    return name ? style().getPropertyValue(name).trim() : value;
  };

  const coloured = (series) => ({
    labels: series.labels,
    markers: series.markers,
    datasets: series.datasets.map((set) => ({
      ...set,
      ...(set.front && { type: "line", pointRadius: 0, borderWidth: 1.5, borderDash: [5, 4] }),
      ...(set.chosen && { borderWidth: set.chosen.map((chosen) => (chosen ? 3 : 0)) }),
      backgroundColor: resolved(set.backgroundColor),
      borderColor: resolved(set.borderColor),
    })),
  });

  const axis = (extra) => ({
    border: { display: false },
    ticks: { color: resolved("var(--ar-axis)"), maxRotation: 0, autoSkipPadding: 12 },
    grid: { color: resolved("var(--ar-grid)"), tickLength: 4 },
    ...extra,
  });

  const legend = (filter) => ({
    position: "bottom",
    align: "start",
    labels: { color: resolved("var(--ar-axis)"), boxWidth: 9, boxHeight: 9, usePointStyle: true, pointStyle: "rectRounded", filter },
  });

  const common = { animation: false, layout: { padding: { top: 14, right: 4 } }, maintainAspectRatio: false, interaction: { mode: "index", intersect: false } };

  const options = {
    bars: () => ({
      ...common,
      maxBarThickness: 42,
      scales: {
        x: axis({ stacked: true, grid: { display: false } }),
        y: { ...axis({ stacked: true, beginAtZero: true }), ticks: { ...axis().ticks, precision: 0, maxTicksLimit: 6 } },
      },
      plugins: { legend: legend() },
    }),
    band: () => ({
      ...common,
      scales: {
        x: axis({ grid: { display: false } }),
        y: { ...axis({ min: 0, max: 1 }), ticks: { ...axis().ticks, stepSize: 0.25, callback: (value) => value.toFixed(2) } },
      },
      plugins: {
        legend: { display: false },
        tooltip: {
          callbacks: {
            label: ({ dataset, dataIndex, parsed }) => {
              const text = `${dataset.label} ${parsed.y.toFixed(2)}`;
              return dataset.counts ? `${text} (n ${dataset.counts[dataIndex]})` : text;
            },
          },
        },
      },
    }),
  };

  options.shares = (series) => {
    const bars = options.bars(series);
    bars.scales.y = { ...axis({ stacked: true, min: 0, max: 1 }), ticks: { ...axis().ticks, stepSize: 0.25, callback: (value) => `${value * 100} %` } };
    bars.plugins.tooltip = { callbacks: { label: ({ dataset, parsed }) => `${dataset.label}: ${Math.round(parsed.y * 100)} %` } };
    return bars;
  };

  // Numbered lines where an operator changed something; the page lists what, under the same numbers.
  const markers = {
    id: "markers",
    afterDatasetsDraw({ ctx, chartArea, scales, config }) {
      for (const { index, number } of config.data.markers || []) {
        const x = scales.x.getPixelForValue(index);
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = resolved("var(--ar-ink)");
        ctx.setLineDash([4, 3]);
        ctx.beginPath();
        ctx.moveTo(x, chartArea.top);
        ctx.lineTo(x, chartArea.bottom);
        ctx.stroke();
        ctx.font = "600 11px Inter, sans-serif";
        ctx.textAlign = "center";
        ctx.fillText(number, x, chartArea.top - 4);
        ctx.restore();
      }
    },
  };

  options.scatter = ({ x, y, unit }) => ({
    ...common,
    interaction: { mode: "nearest", intersect: true },
    clip: false, // points at 0 and 1 stand on the edge
    scales: {
      x: axis({ type: "linear", beginAtZero: true, ...(unit && { max: 1 }), title: { display: true, text: x, color: resolved("var(--ar-axis)") } }),
      y: axis({ min: 0, max: 1, title: { display: true, text: y, color: resolved("var(--ar-axis)") } }),
    },
    plugins: {
      legend: legend(),
      tooltip: {
        callbacks: {
          label: ({ dataset, raw }) => `${dataset.label}: ${y} ${raw.y.toFixed(2)}, ${x} ${raw.x.toFixed(2)}${raw.n ? ` (n ${raw.n})` : ""}`,
        },
      },
    },
  });

  // Builds of models: memory, speed, and quality as the size of a point; the front is a line.
  options.builds = () => ({
    ...common,
    interaction: { mode: "nearest", intersect: true },
    clip: false,
    datasets: { scatter: { pointRadius: ({ raw }) => 4 + 10 * (raw?.quality || 0) } },
    scales: {
      x: axis({ type: "linear", beginAtZero: true, title: { display: true, text: "memory of weights, MB", color: resolved("var(--ar-axis)") } }),
      y: axis({ beginAtZero: true, title: { display: true, text: "tokens/s, one answer", color: resolved("var(--ar-axis)") } }),
    },
    plugins: {
      legend: legend(),
      tooltip: {
        filter: ({ dataset }) => !dataset.front,
        callbacks: { label: ({ raw }) => [raw.name, `${raw.x} MB, ${raw.y} tokens/s, quality ${raw.quality}`] },
      },
    },
  });

  const types = { bars: "bar", shares: "bar", band: "line", scatter: "scatter", builds: "scatter" };
  const charts = [];

  function draw() {
    while (charts.length) charts.pop().destroy();
    Chart.defaults.font.family = "Inter, sans-serif";
    Chart.defaults.font.size = 12;
    for (const canvas of document.querySelectorAll("canvas[data-chart]")) {
      const kind = canvas.dataset.chart;
      const series = JSON.parse(canvas.dataset.series);
      charts.push(new Chart(canvas, { type: types[kind], data: coloured(series), options: options[kind](series), plugins: [markers] }));
    }
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const field = document.getElementById(button.dataset.copy);
    field.select();
    // Browsers offer the clipboard to pages on HTTPS or localhost; elsewhere the text stays selected for Ctrl-C.
    try {
      await navigator.clipboard.writeText(field.value);
      button.lastElementChild.textContent = "Copied";
    } catch {
      button.lastElementChild.textContent = "Press Ctrl-C";
    }
  });

  document.addEventListener("DOMContentLoaded", () => {
    // The theme writes a chosen file's name into the nearest text field, which here is another one's.
    for (const input of document.querySelectorAll("input.ar-files")) input.hasChangeListener = true;
  });

  window.addEventListener("load", () => {
    draw();
    // The theme switch changes a class on <html>; a canvas takes no colours from CSS by itself.
    new MutationObserver(draw).observe(document.documentElement, { attributes: true, attributeFilter: ["class"] });
  });
})();
