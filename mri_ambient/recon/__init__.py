"""From a scan to an image: the recipe, the engine, the checks, the warnings.

Public: ``reconstruct``, ``reconstruct_many``, ``reconstruct_to_folder`` (pipeline); ``Recipe``,
``Checks`` (recipe); ``Reconstruction`` (reconstruction); ``Engine`` (engine); ``draw_images``
(draw); ``predict_held_out`` (checks); ``evaluate_volume`` (metrics).
"""
