"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg.functional.cam import (
    assemble_cam as assemble_cam, cam_background_score as cam_background_score,
    cam_labels as cam_labels, cam_probabilities as cam_probabilities,
    normalize_class_scores as normalize_class_scores, normalize_in_boxes as normalize_in_boxes,
)
from scribbleseg.functional.cam_refinement import (
    CAMRefinement as CAMRefinement, refine_cam as refine_cam,
)
from scribbleseg.functional.clustering import (
    LloydSums as LloydSums, lloyd_accumulate as lloyd_accumulate,
    spherical_kmeans as spherical_kmeans,
)
from scribbleseg.functional.contact_sheet import (
    contact_sheet as contact_sheet, thumbnails as thumbnails,
)
from scribbleseg.functional.crf import (
    CRFParams as CRFParams, CRF_PRESETS as CRF_PRESETS, dense_crf as dense_crf,
    mean_field as mean_field, unary_from_labels as unary_from_labels,
    unary_from_probs as unary_from_probs,
)
from scribbleseg.functional.degrade import (
    Anchor as Anchor, Degradation as Degradation, StrokeDrawing as StrokeDrawing,
    degrade_drawing as degrade_drawing, degrade_scribble as degrade_scribble,
)
from scribbleseg.functional.distance import (
    boundary_distance_map as boundary_distance_map,
    differs_from_neighbours as differs_from_neighbours, label_boundary as label_boundary,
    scribble_distance_map as scribble_distance_map,
)
from scribbleseg.functional.distributed import (
    GatheredRows as GatheredRows, all_gather_rows as all_gather_rows,
    all_reduce_sum as all_reduce_sum, communication_device as communication_device,
    get_rank as get_rank, get_world_size as get_world_size, is_distributed as is_distributed,
    mean_over_ranks as mean_over_ranks,
)
from scribbleseg.functional.feature_plan import (
    FeatureFile as FeatureFile, FeaturePlan as FeaturePlan, FeaturePlanner as FeaturePlanner,
)
from scribbleseg.functional.feature_sets import (
    SetPrototypes as SetPrototypes, StreamingLloyd as StreamingLloyd,
    bottom_k_per_set as bottom_k_per_set, cluster_set as cluster_set,
    priority_keys as priority_keys, sample_keys as sample_keys, sortable_keys as sortable_keys,
)
from scribbleseg.functional.gated_crf import (
    GatedKernel as GatedKernel, gated_crf_loss as gated_crf_loss,
)
from scribbleseg.functional.gaussian import (
    exact_gaussian_filter as exact_gaussian_filter, pixel_features as pixel_features,
    scale_kernel_inputs as scale_kernel_inputs,
    window_gaussian_filter as window_gaussian_filter, window_pairs as window_pairs,
)
from scribbleseg.functional.geometry import (
    BackgroundScope as BackgroundScope, area_pool as area_pool, cell_purity as cell_purity,
    class_labels_from_scribble as class_labels_from_scribble,
    downsample_label as downsample_label,
    foreground_background_cells as foreground_background_cells, label_canvas as label_canvas,
    one_hot_labels as one_hot_labels, resize_labels as resize_labels,
    whole_cells as whole_cells,
)
from scribbleseg.functional.grid_tree import (
    GridTree as GridTree, edge_counts as edge_counts, grid_mst as grid_mst,
    packed_argsort as packed_argsort, root_tree as root_tree,
)
from scribbleseg.functional.image_files import (
    ImageFile as ImageFile, find_images as find_images, unique_names as unique_names,
    walk_files as walk_files, write_arrays as write_arrays, write_atomic as write_atomic,
    write_text as write_text,
)
from scribbleseg.functional.images import (
    colorize as colorize, compose_panel as compose_panel, overlay_heat as overlay_heat,
    overlay_labels as overlay_labels, write_image as write_image, write_label as write_label,
)
from scribbleseg.functional.intensity import (
    Intensity as Intensity, IntensityMode as IntensityMode,
    check_rgb_channels as check_rgb_channels, rgb_view as rgb_view,
)
from scribbleseg.functional.kernel_losses import (
    KernelFilter as KernelFilter, KernelOptions as KernelOptions, KernelSums as KernelSums,
    dense_crf_loss as dense_crf_loss, kernel_cut_loss as kernel_cut_loss,
    normalized_cut_loss as normalized_cut_loss,
)
from scribbleseg.functional.losses import (
    absent_class_loss as absent_class_loss, check_reduction as check_reduction,
    class_weights_from_histogram as class_weights_from_histogram, entropy_loss as entropy_loss,
    full_precision as full_precision, image_means as image_means, masked_mean as masked_mean,
    partial_cross_entropy as partial_cross_entropy, partial_dice_loss as partial_dice_loss,
    weighted_mean as weighted_mean,
)
from scribbleseg.functional.manifest import (
    MANIFEST as MANIFEST, check_manifest as check_manifest,
    class_difference as class_difference, content_digest as content_digest,
    made_by_library as made_by_library,
    parent_facts as parent_facts, read_manifest as read_manifest, text_digest as text_digest,
    write_manifest as write_manifest,
)
from scribbleseg.functional.permutohedral import PermutohedralLattice as PermutohedralLattice
from scribbleseg.functional.point_loss import (
    bilinear_at_points as bilinear_at_points, drawn_points as drawn_points,
    partial_cross_entropy_at_points as partial_cross_entropy_at_points,
)
from scribbleseg.functional.preprocess import (
    mirrored_ids as mirrored_ids, normalize as normalize, preprocess as preprocess,
    resize_image as resize_image, resized_shape as resized_shape,
)
from scribbleseg.functional.pseudo_labels import (
    clamp_seeds as clamp_seeds, confident_labels as confident_labels,
    crf_index_refiner as crf_index_refiner, filter_pseudo_labels as filter_pseudo_labels,
    spread_by_crf as spread_by_crf, synthesize_mask as synthesize_mask,
)
from scribbleseg.functional.random_walk import (
    boundary_to_affinity as boundary_to_affinity, path_offsets as path_offsets,
    path_table as path_table, sparse_random_walk as sparse_random_walk,
)
from scribbleseg.functional.random_walker import (
    random_walker as random_walker, random_walker_labels as random_walker_labels,
)
from scribbleseg.functional.regions import (
    RegionGraph as RegionGraph, majority_labels as majority_labels,
    region_means as region_means, region_sizes as region_sizes, region_sums as region_sums,
    superpixel_affinity as superpixel_affinity, superpixel_histograms as superpixel_histograms,
)
from scribbleseg.functional.schedules import (
    RampShape as RampShape, ScheduleName as ScheduleName, ramp_factor as ramp_factor,
    schedule_factor as schedule_factor,
)
from scribbleseg.functional.skeletons import (
    PixelGraph as PixelGraph, Regions as Regions, label_regions as label_regions,
    longest_paths as longest_paths, medial_axis as medial_axis, pixel_graph as pixel_graph,
    region_depth as region_depth, region_distance as region_distance,
)
from scribbleseg.functional.strokes import (
    PointStyle as PointStyle, PointsPer as PointsPer, Renderer as Renderer,
    ScribbleStyle as ScribbleStyle, Stroke as Stroke, covered_pixels as covered_pixels,
    rasterize as rasterize,
)
from scribbleseg.functional.superpixels import (
    MOST_SUPERPIXELS as MOST_SUPERPIXELS, SuperpixelMethod as SuperpixelMethod,
    SuperpixelOptions as SuperpixelOptions, over_segment as over_segment,
    region_boundaries as region_boundaries,
)
from scribbleseg.functional.synthesis import (
    image_seed as image_seed, synthesize_points as synthesize_points,
    synthesize_scribbles as synthesize_scribbles,
)
from scribbleseg.functional.tree_energy import (
    grid_edge_weights as grid_edge_weights, tree_energy_loss as tree_energy_loss,
    tree_soft_labels as tree_soft_labels,
)
from scribbleseg.functional.tree_filter import tree_filter as tree_filter
from scribbleseg.functional.tta import (
    multi_scale_probabilities as multi_scale_probabilities,
    resized_window_probabilities as resized_window_probabilities, scale_image as scale_image,
    sliding_window_logits as sliding_window_logits,
)
from scribbleseg.functional.variational import (
    contour_length_loss as contour_length_loss, intensity_variance as intensity_variance,
    level_set_loss as level_set_loss, total_variation_loss as total_variation_loss,
)
